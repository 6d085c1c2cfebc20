
/* A stream, read by fetch: unlike an EventSource it shows every event type, what the
   server says when it refuses, and can carry a token. */

const MAX_ROWS = 200;
const MAX_SHOWN = 16_384;         // characters of a message that are kept
const MAX_BUFFERED = 64 << 20;    // characters of one event
const LAST = 50;                  // messages that are there when watching begins, if they are kept
const STREAM_RETRY_MS = 3_000;    // until the stream says otherwise

// eventParser takes pieces of a stream's text and calls back for each event, after
// the rules of WHATWG HTML, 9.2.6. The id counts without data too: that is how a planned
// end tells its position.
function eventParser({ onId, onEvent, onRetry }) {
  let rest = "", data = [], type = "", id = "";
  function field(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (name === "data") data.push(value);
    else if (name === "event") type = value;
    else if (name === "id" && !value.includes("\0")) id = value;
    else if (name === "retry" && /^\d+$/.test(value)) onRetry(Number(value));
  }
  return (text) => {
    rest += text;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    if (rest.length > MAX_BUFFERED) throw new Error("an event without an end");
    for (const line of lines) {
      if (line !== "") { field(line); continue; }
      onId(id);
      if (data.length > 0) onEvent({ id, type: type || "message", data: data.join("\n") });
      data = [];
      type = "";
    }
  };
}

// watchStream follows a stream until it is stopped, coming back as a browser would.
function watchStream({ url, token, after, onState, onEvent }) {
  const abort = new AbortController();
  let retry = STREAM_RETRY_MS, last = after, wake = () => {};

  async function once() {
    const place = new URL(url);
    if (last) place.searchParams.set("last_event_id", last); // it goes before a start
    const headers = token ? { Authorization: "Bearer " + token } : {};
    const response = await fetch(place, { signal: abort.signal, headers, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
    if (!response.ok) throw new Error(`${response.status}: ${(await response.text()).trim().slice(0, 300) || response.statusText}`);
    onState("good", "watching");
    const parse = eventParser({ onId(id) { last = id || last; }, onEvent, onRetry(ms) { retry = ms; } });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      parse(value);
    }
  }

  async function follow() {
    while (!abort.signal.aborted) {
      let why = "the stream ended";
      try {
        await once();
      } catch (error) {
        why = error instanceof TypeError ? "no stream from " + new URL(url).host : error.message;
      }
      if (abort.signal.aborted) return;
      onState("bad", why, retry);
      await new Promise((resolve) => { wake = resolve; setTimeout(resolve, retry); });
    }
  }
  follow();
  return () => { abort.abort(); wake(); };
}

function defaultAddress() {
  if (!settings.port) return "";
  let host = settings.host || location.hostname;
  if (host.includes(":") && !host.startsWith("[")) host = "[" + host + "]";
  return location.protocol + "//" + host + ":" + settings.port + "/sse/connect";
}

// blocked says why the policy of this page keeps it from a URL, "" when it does not.
function blocked(url) {
  const port = url.port || { "http:": "80", "https:": "443" }[url.protocol];
  if (url.origin === location.origin || port === settings.port) return "";
  return settings.port ? `this page can reach port ${settings.port} only, where the streams of this instance are` : "there is no TCP listener for streams";
}

const watch = { stop: null, channel: "", pending: [], full: false, events: 0, drawing: 0 };

function setWatch(kind, text) {
  $("watch-state").className = "pill " + kind;
  setText($("watch-state"), text);
  $("watch-toggle").textContent = watch.stop ? "Stop" : "Start";
}

function startWatch() {
  stopWatch();
  let url;
  try {
    url = new URL($("watch-address").value);
  } catch {
    return setWatch("bad", settings.port ? "the stream address is no URL" : "there is no TCP listener for streams");
  }
  if (blocked(url)) return setWatch("bad", blocked(url));
  url.searchParams.set("channel_id", watch.channel);
  url.searchParams.set("last", Math.min(LAST, settings.max_last));
  setWatch("", "connecting");
  watch.stop = watchStream({
    url: url.href, token: $("watch-token").value, after: $("watch-after").value.trim(), onEvent: noteEvent,
    onState(kind, text, retry) {
      setWatch(kind, kind === "good" ? text : "reconnecting");
      if (kind === "bad" && text.startsWith("401")) askForStreamToken();
      if (kind === "bad") noteRow(make("li", { class: "note" }, `${clock.format(Date.now())}  ${text}; again in ${plain(short(retry / 1000))}`));
    },
  });
  $("watch-toggle").textContent = "Stop";
}

// askForStreamToken shows where a token goes, the first time.
function askForStreamToken() {
  const field = $("watch-token");
  if (field.value || field.closest("details").open) return;
  field.closest("details").open = true;
  field.focus();
}

function stopWatch() {
  watch.stop?.();
  watch.stop = null;
  setWatch("", "off");
}

function noteEvent(event) {
  if (settings.heartbeat_event && event.type === settings.heartbeat_event && event.data === "") return;
  watch.events++;
  watch.pending.push({ ...event, at: Date.now(), cut: event.data.length - MAX_SHOWN });
  if (watch.pending.length > MAX_ROWS) watch.pending.shift();
  watch.drawing ||= setTimeout(drawWatch, watch.full ? 500 : 100); // nobody reads faster
}

function drawWatch() {
  watch.drawing = 0;
  watch.full = watch.pending.length === MAX_ROWS;
  for (const e of watch.pending.splice(0)) {
    noteRow(make("li", { class: e.type === "gap" ? "gap" : "" },
      make("span", { class: "at" }, clock.format(e.at)), make("span", { class: "id" }, e.id),
      e.type === "message" ? make("span") : make("span", { class: "type" }, tag(visible(e.type), e.type === "gap" ? "bad" : "")),
      make("pre", { dir: "auto" }, e.data.slice(0, MAX_SHOWN), e.cut > 0 ? tag(`and ${plain(count(e.cut))} more characters`) : "")));
  }
  setText($("watch-count"), watch.events > MAX_ROWS ? `${whole.format(watch.events)} events, the newest ${MAX_ROWS} below` : `${whole.format(watch.events)} ${watch.events === 1 ? "event" : "events"}`);
}

// noteRow puts a row on top; who has scrolled down keeps their place.
function noteRow(row) {
  const list = $("watch-list");
  list.prepend(row);
  while (list.childElementCount > MAX_ROWS) list.lastElementChild.remove();
}

function clearWatch() {
  clearTimeout(watch.drawing);
  Object.assign(watch, { pending: [], events: 0, drawing: 0 });
  $("watch-list").replaceChildren();
  setText($("watch-count"), "");
}

$("watch-toggle").addEventListener("click", () => watch.stop ? stopWatch() : startWatch());
$("watch-options").addEventListener("submit", (e) => { e.preventDefault(); startWatch(); });
$("watch-clear").addEventListener("click", clearWatch);
$("watch-address").value = defaultAddress();
