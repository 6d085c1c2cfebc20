package clients;

import java.time.Duration;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.sse.EventSource;
import okhttp3.sse.EventSourceListener;
import okhttp3.sse.EventSources;

class OkHttp extends Harness {
    public static void main(String[] args) {
        url = args[0];
        new Reader().open();
    }

    // snippet
    static class Reader extends EventSourceListener {
        // Its default, 10 s, is shorter than the time between heartbeats.
        final OkHttpClient client = new OkHttpClient.Builder().readTimeout(Duration.ofSeconds(45)).build();
        final ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
        volatile String lastId = "";

        void open() {
            var request = new Request.Builder().url(url);
            if (!lastId.isEmpty()) {
                request.header("Last-Event-ID", lastId);
            }
            EventSources.createFactory(client).newEventSource(request.build(), this);
        }

        @Override
        public void onEvent(EventSource source, String id, String type, String data) {
            lastId = id == null ? lastId : id;
            show(type == null ? "message" : type, lastId, data);
        }

        @Override
        public void onClosed(EventSource source) {
            comeBack("end");
        }

        @Override
        public void onFailure(EventSource source, Throwable error, Response response) {
            comeBack(error == null ? response.code() : error);
        }

        void comeBack(Object why) {
            lost(why);
            timer.schedule(this::open, ThreadLocalRandom.current().nextInt(500, 1500), TimeUnit.MILLISECONDS);
        }
    }
    // end
}
