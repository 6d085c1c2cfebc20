import { subscribe } from "ssed-client";

const stream = subscribe(url, [], {
  onMessage: (m) => show(m.type, m.id, m.data),
  onGap: (gap) => show("gap", stream.lastEventId, JSON.stringify(gap)),
  onState: (open) => open || lost(),
});
