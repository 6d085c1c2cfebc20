import { SSE } from "sse.js";

const source = new SSE(url, {
  headers: { "Content-Type": "application/x-www-form-urlencoded" }, // without it: text/plain, 415
  payload: String(new URLSearchParams(channels.map((name) => ["channel_id", name]))),
  autoReconnect: true,
});
const take = (e) => show(e.type, e.lastEventId, e.data);
source.addEventListener("message", take);
source.addEventListener("gap", take);
source.addEventListener("error", lost);
