import { fetchEventSource } from "@microsoft/fetch-event-source";

void fetchEventSource(url, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ channels, tell: "channel" }),
  openWhenHidden: true,
  onmessage(e) {
    if (e.data) show(e.event || "message", e.id, e.data);
  },
  onclose() {
    throw new Error("the server has ended the stream"); // else it does not come back
  },
  onerror: lost,
});
