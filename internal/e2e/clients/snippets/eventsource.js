const source = new EventSource(url);
const take = (e) => show(e.type, e.lastEventId, e.data);
source.addEventListener("message", take);
source.addEventListener("gap", take);
source.addEventListener("error", lost);
