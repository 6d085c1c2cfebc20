import { fetchEventSource } from "@microsoft/fetch-event-source";

void fetchEventSource(url, {
  headers: { Authorization: "Bearer token" },
  openWhenHidden: true, // else it gives up its stream while the tab is hidden
  onmessage(e) {
    if (e.data) show(e.event || "message", e.id, e.data); // it shows a block without data, too
  },
  onclose() {
    throw new Error("the server has ended the stream"); // else it does not come back
  },
  onerror: lost, // it returns nothing: come back after the time that the server gave
});
