package clients;

/** What the snippets stand in: it prints what they show, a line of JSON each. */
class Harness {
    static String url;

    static void show(String type, String id, String data) {
        print("{\"event\":" + quoted(type) + ",\"id\":" + quoted(id) + ",\"data\":" + quoted(data) + "}");
    }

    static void lost(Object why) {
        print("{\"lost\":" + quoted(String.valueOf(why)) + "}");
    }

    static synchronized void print(String line) {
        var out = (line + "\n").getBytes(java.nio.charset.StandardCharsets.UTF_8);
        System.out.write(out, 0, out.length);
        System.out.flush();
    }

    private static String quoted(String text) {
        var out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }
}
