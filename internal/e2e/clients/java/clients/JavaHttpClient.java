package clients;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.concurrent.ThreadLocalRandom;

class JavaHttpClient extends Harness {
    public static void main(String[] args) throws InterruptedException {
        url = args[0];
        new Reader().run();
    }

    // snippet
    static class Reader {
        final HttpClient client = HttpClient.newHttpClient();
        String lastId = "", type = "", data = "";

        void run() throws InterruptedException {
            while (true) {
                var request = HttpRequest.newBuilder(URI.create(url)).header("Accept", "text/event-stream");
                if (!lastId.isEmpty()) {
                    request.header("Last-Event-ID", lastId);
                }
                type = data = "";
                try (var lines = client.send(request.build(), BodyHandlers.ofLines()).body()) {
                    lines.forEach(this::take);
                    lost("end");
                } catch (IOException | UncheckedIOException error) {
                    lost(error);
                }
                Thread.sleep(ThreadLocalRandom.current().nextInt(500, 1500));
            }
        }

        void take(String line) {
            var colon = line.indexOf(':');
            var name = colon < 0 ? line : line.substring(0, colon);
            var value = colon < 0 ? "" : line.substring(colon + 1).replaceFirst("^ ", "");
            switch (name) {
                case "event" -> type = value;
                case "id" -> lastId = value;
                case "data" -> data += value + "\n";
                default -> {
                    if (line.isEmpty()) {
                        if (!data.isEmpty()) {
                            show(type.isEmpty() ? "message" : type, lastId, data.substring(0, data.length() - 1));
                        }
                        type = data = "";
                    }
                }
            }
        }
    }
    // end
}
