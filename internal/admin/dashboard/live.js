
/* What /api/live says, and what a second of it makes: rates are differences. */

const WINDOW_MS = 10 * 60_000;
const MAX_SAMPLES = 700;      // of ten minutes, at one a second, with some in hand for a quick server
const MAX_GAPS = 64;          // what the server keeps
const SILENCE_MS = 6_000;     // stats come each second: after so long there is no server
const RETRY_MS = 2_000;

const live = {
  source: null,
  stats: null,       // newest
  sample: null,      // newest, of samples
  samples: [],       // oldest first
  gaps: [],          // newest first
  heard: 0,          // performance.now() of the newest stats
  lostAt: 0,         // Date.now(), 0 while connected
  why: "",           // what the server said instead of a stream
  gapsError: null,
  listeners: [],     // called when something new came
};

// serverNow is the time by the server's clock, to within a second.
const serverNow = () => live.sample?.at ?? Date.now();

const total = (byReason) => Object.values(byReason ?? {}).reduce((sum, n) => sum + n, 0);

// quantile of what was counted between two states of a histogram, interpolated in its
// bucket; null when nothing was. What lies above the last bound counts as that bound.
function quantile(before, after, q) {
  const bounds = after.bounds_seconds;
  if (!bounds?.length || before.counts?.length !== after.counts.length) return null;
  const counts = after.counts.map((n, i) => n - before.counts[i]);
  const sum = counts.reduce((a, b) => a + b, 0);
  if (!(sum > 0)) return null;
  let rank = q * sum;
  for (let i = 0; i < bounds.length; i++) {
    if (counts[i] >= rank && counts[i] > 0) {
      const low = i > 0 ? bounds[i - 1] : 0;
      return low + (bounds[i] - low) * rank / counts[i];
    }
    rank -= counts[i];
  }
  return bounds.at(-1);
}

// sampleOf is one point of every plot. Without stats of the same process before there
// are no rates yet.
function sampleOf(before, s) {
  const sample = {
    at: Date.parse(s.now), streams: s.streams, ring: s.ring.limit_bytes > 0 ? s.ring.bytes / s.ring.limit_bytes : null,
    history: s.redis ? s.redis.watermark_lag_seconds : null,
    connects: null, closes: null, messages: null, deliveries: null, bytes: null, p50: null, p99: null, cpu: null, busy: null,
  };
  const seconds = before ? s.uptime_seconds - before.uptime_seconds : 0;
  if (!before || before.started !== s.started || before.instance !== s.instance || !(seconds > 0)) return sample;
  const rate = (of) => Math.max(0, of(s) - of(before)) / seconds;
  sample.connects = rate((x) => x.totals.attached);
  sample.closes = rate((x) => total(x.closed));
  sample.messages = rate((x) => x.totals.messages);
  sample.deliveries = rate((x) => x.totals.deliveries);
  sample.bytes = rate((x) => x.totals.sent_bytes);
  sample.p50 = quantile(before.lag, s.lag, 0.5);
  sample.p99 = quantile(before.lag, s.lag, 0.99);
  sample.cpu = rate((x) => x.process.cpu_seconds);
  sample.busy = s.shards?.length > 0 ? Math.max(...s.shards.map((_, i) => rate((x) => x.shards?.[i]?.busy_seconds ?? 0))) : null;
  return sample;
}

// note takes the numbers of a moment as a point of each plot.
function note(stats) {
  live.sample = sampleOf(live.stats, stats);
  live.stats = stats;
  if (live.samples.at(-1)?.at > live.sample.at) live.samples = []; // the server's clock was set back
  live.samples.push(live.sample);
  const oldest = live.sample.at - WINDOW_MS - 2_000;
  let old = live.samples.findIndex((s) => s.at >= oldest);
  old = Math.max(old, live.samples.length - MAX_SAMPLES);
  if (old > 0) live.samples.splice(0, old);
}

function takeStats(stats) {
  note(stats);
  live.heard = performance.now();
  setMode(stats.redis ? "redis" : "embedded");
  setLive("good");
  changed();
}

// gapKey tells records apart: the server merges those of a few seconds, and sends one
// again when it has grown.
const gapKey = (g) => [g.at, g.reason, g.live].join(" ");

function takeGap(gap) {
  const known = live.gaps.findIndex((g) => gapKey(g) === gapKey(gap));
  if (known >= 0) live.gaps[known] = gap;
  else live.gaps.unshift(gap);
  live.gaps.length = Math.min(live.gaps.length, MAX_GAPS);
  changed();
}

// changed draws once per frame, and not at all in a tab that nobody sees.
let drawing = false;
function changed() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    for (const listener of live.listeners) listener();
  });
}

function setMode(mode) {
  if (document.body.dataset.mode === mode) return;
  document.body.dataset.mode = mode;
  pollAll(); // some lists wait for it
}

function setLive(state) {
  const pill = $("live");
  const { stats } = live;
  let [kind, text] = ["bad", "disconnected"];
  if (state === "good") [kind, text] = stats.draining ? ["warn", "draining"] : stats.ready ? ["good", "live"] : ["bad", "not ready"];
  pill.className = "pill " + kind;
  setText(pill, text);
  document.body.dataset.live = state === "good" ? "good" : "lost";
  if (state === "good" && live.lostAt > 0) {
    live.lostAt = 0;
    loadGaps();
    pollAll();
  } else if (state !== "good" && live.lostAt === 0) {
    live.lostAt = Date.now();
  }
  showTrouble();
}

// showTrouble puts above everything else what makes the rest of the page less true.
function showTrouble() {
  const { stats } = live, unready = live.lostAt === 0 && stats && !stats.ready;
  $("trouble").hidden = live.lostAt === 0 && !unready;
  $("trouble").className = "banner" + (stats?.draining && unready ? " warn" : "");
  if (unready) setText($("trouble"), stats.draining ? "This instance drains: its clients are moving to others." : `Not ready, so new clients are sent away: ${stats.reason}`);
  if (live.lostAt === 0) return;
  const why = live.why ? ` (${live.why})` : "";
  setText($("trouble"), live.stats
    ? `Disconnected since ${clock.format(live.lostAt)}${why}. What is shown is the last that was known; trying again every ${RETRY_MS / 1000} s.`
    : `No answer from this instance yet${why}; trying again every ${RETRY_MS / 1000} s.`);
}

// askWhy finds out what the server says, which an EventSource keeps to itself.
async function askWhy() {
  const abort = new AbortController();
  try {
    const response = await fetch(location.origin + "/api/live", { signal: AbortSignal.any([abort.signal, AbortSignal.timeout(RETRY_MS)]), cache: "no-store" });
    live.why = response.ok ? "" : `${response.status}: ${(await response.json()).error}`;
  } catch {
    live.why = "";
  }
  abort.abort();
  showTrouble();
}

// connect keeps one EventSource. It makes a new one rather than let it reconnect by
// itself: browsers give up for good after an answer that is no stream.
function connect() {
  live.source?.close();
  live.heard = performance.now();
  const source = live.source = new EventSource(location.origin + "/api/live");
  source.addEventListener("stats", (e) => takeStats(JSON.parse(e.data)));
  source.addEventListener("gap", (e) => takeGap(JSON.parse(e.data)));
  source.onerror = () => {
    const refused = source.readyState === EventSource.CLOSED;
    source.close();
    setLive("lost");
    live.why = "";
    if (refused) askWhy();
    setTimeout(() => { if (live.source === source) connect(); }, RETRY_MS);
  };
}

// A peer that vanished without a word closes nothing.
setInterval(() => {
  if (live.source && live.source.readyState !== EventSource.CLOSED && performance.now() - live.heard > SILENCE_MS) {
    setLive("lost");
    connect();
  }
}, 1_000);

// loadRecent lets the plots begin with what the server remembers.
async function loadRecent() {
  try {
    for (const stats of (await api("/api/stats/recent")).value.stats) note(stats);
  } catch { /* then they begin now; the stream says what is wrong */ }
}

async function loadGaps() {
  try {
    const { value } = await api("/api/gaps");
    live.gaps = value.gaps.slice(0, MAX_GAPS);
    live.gapsError = null;
  } catch (error) {
    live.gapsError = error;
  }
  changed();
}
