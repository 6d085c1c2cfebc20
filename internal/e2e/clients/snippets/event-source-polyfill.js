import { EventSourcePolyfill } from "event-source-polyfill";

const source = new EventSourcePolyfill(url, {
  headers: { Authorization: "Bearer token" },
  lastEventIdQueryParameterName: "last_event_id", // it sends no Last-Event-ID
  heartbeatTimeout: 45_000, // its default; three heartbeats
});
const take = (e) => show(e.type, e.lastEventId, e.data);
source.addEventListener("message", take);
source.addEventListener("gap", take);
source.addEventListener("error", lost);
