import { SSE } from "sse.js";

const source = new SSE(url, {
  headers: {
    "Content-Type": "application/x-www-form-urlencoded", // else it is text/plain, which gets 415
    Accept: "text/event-stream", // else it gets 503 from an instance that is not ready
  },
  payload: String(new URLSearchParams(channels.map((name) => ["channel_id", name]))),
  autoReconnect: true,
});
const take = (e) => show(e.type, e.lastEventId, e.data);
source.addEventListener("message", take);
source.addEventListener("gap", take);
source.addEventListener("error", lost);
