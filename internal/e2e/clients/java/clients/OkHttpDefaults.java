package clients;

import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.sse.EventSource;
import okhttp3.sse.EventSourceListener;
import okhttp3.sse.EventSources;

/** OkHttp with the time-outs that it comes with. */
class OkHttpDefaults extends Harness {
    public static void main(String[] args) {
        var request = new Request.Builder().url(args[0]).build();
        EventSources.createFactory(new OkHttpClient()).newEventSource(request, new EventSourceListener() {
            @Override
            public void onFailure(EventSource source, Throwable error, Response response) {
                lost(error);
            }
        });
    }
}
