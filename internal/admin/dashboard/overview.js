
/* Tiles, plots, top channels, fleet and gaps */

const TOP_CHANNELS = 50;

// tile makes one figure of a list of them, and returns what sets it:
// ([figure, unit], text below, kind).
function tile(host, label, fixed = "") {
  const value = make("div", { class: "value" }), sub = make("div", { class: "sub" });
  const element = make("div", { class: "tile " + fixed }, make("dt", null, label), make("dd", null, value, sub));
  host.append(element);
  const figureNode = document.createTextNode(""), unitNode = make("span", { class: "unit" });
  value.append(figureNode, unitNode);
  const set = ([figure, unit], below, kind) => {
    if (figureNode.data !== figure) figureNode.data = figure;
    setText(unitNode, unit === "" || unit === undefined ? "" : unit === "/s" || unit === "%" ? unit : " " + unit);
    setText(sub, (below ?? "").replace(/(\d) (?=(?:d|h|m|s|ms|µs|B|KiB|MiB|GiB|TiB)\b)/g, "$1\u00a0")); // a figure and its unit stay together
    sub.title = below ?? "";
    element.className = `tile ${fixed} ${kind ?? ""}`;
  };
  set.element = element;
  return set;
}

const tiles = Object.fromEntries([
  ["state", "State"], ["streams", "Streams"], ["connects", "Connects"], ["messages", "Messages in"],
  ["deliveries", "Deliveries"], ["sent", "Sent"], ["lag", "Delivery lag, p50 and p99"], ["ring", "Ring in memory"],
  ["history", "History lag", "redis"], ["redis", "Redis", "redis"], ["gaps", "Gaps"], ["process", "Process CPU"],
].map(([id, label, fixed]) => [id, tile($("tiles"), label, fixed)]));

const second = (of) => (s) => s[of];

for (const definition of [
  { title: "Streams", format: count, least: 4, whole: true, lines: [{ name: "", of: second("streams") }] },
  { title: "Connections", format: perSecond, least: 4, lines: [{ name: "opened", of: second("connects") }, { name: "closed", of: second("closes") }] },
  { title: "Messages in", format: perSecond, least: 4, lines: [{ name: "", of: second("messages") }] },
  { title: "Deliveries", format: perSecond, least: 4, lines: [{ name: "", of: second("deliveries") }] },
  { title: "Sent", format: bytesPerSecond, base: 1024, least: 1024, lines: [{ name: "", of: second("bytes") }] },
  { title: "Lag", format: short, least: 0.001, lines: [{ name: "p50", of: second("p50") }, { name: "p99", of: second("p99") }] },
  { title: "Ring", format: share, least: 0.01, lines: [{ name: "", of: second("ring") }] },
  { title: "Load", format: share, least: 0.1, lines: [{ name: "CPU", of: second("cpu") }, { name: "busiest loop", of: second("busy") }] },
]) plot($("plots"), definition);

function drawTiles() {
  const { stats: s, sample } = live;
  if (!s || $("overview").hidden) return;
  const rest = (n) => plain(count(n)) + " since start";
  tiles.state([s.draining ? "Draining" : s.ready ? "Ready" : "Not ready", ""], s.ready ? "up " + plain(long(s.uptime_seconds)) : s.reason,
    s.draining ? "warn" : s.ready ? "good" : "bad");
  tiles.streams(count(s.streams), `of ${plain(count(s.max_connections))} possible` + (s.slow > 0 ? `, ${plain(count(s.slow))} slow` : ""),
    s.connections >= 0.95 * s.max_connections ? "warn" : "");
  tiles.connects(perSecond(sample.connects ?? NaN), `${plain(perSecond(sample.closes ?? NaN))} closed`);
  tiles.messages(perSecond(sample.messages ?? NaN), rest(s.totals.messages));
  tiles.deliveries(perSecond(sample.deliveries ?? NaN), rest(s.totals.deliveries));
  tiles.sent(bytesPerSecond(sample.bytes ?? NaN), plain(bytes(s.totals.sent_bytes)) + " since start");
  tiles.lag(lagFigure(sample), sample.p99 === null ? "nothing delivered" : "of the last second");
  tiles.ring(share(sample.ring ?? NaN), `${plain(bytes(s.ring.bytes))} of ${plain(bytes(s.ring.limit_bytes))}` +
    (s.ring.messages > 0 ? `, ${plain(long(s.ring.oldest_seconds))}` : ""));
  tiles.gaps(count(s.totals.gaps), gapSum(s), s.totals.gaps > 0 && live.gaps.some((g) => Date.parse(g.at) > sample.at - WINDOW_MS) ? "warn" : "");
  tiles.process(share(sample.cpu ?? NaN), `${plain(bytes(s.process.rss_bytes))}, ${plain(count(s.process.open_files))} of ${plain(count(s.process.file_limit))} files`);
  if (s.redis) drawRedis(s);
}

function drawFrame() {
  const { stats: s } = live;
  if (!s) return;
  setText($("instance"), visible(s.instance));
  setText($("version"), s.version);
  setText($("top-sum"), several(s.channels, "channel"));
  setText($("started"), "started " + day.format(Date.parse(s.started)));
}

function drawRedis({ redis }) {
  const lag = redis.watermark_lag_seconds;
  tiles.history(short(lag), redis.writer ? "this instance writes" : "this instance does not write", lag > 2 ? "warn" : "");
  tiles.redis([redis.up ? "Up" : "Down", ""],
    `${several(redis.links, "link")}${redis.leading ? ", leading" : ""}, ${several(redis.resyncs, "resync")}`, redis.up ? "good" : "bad");
}

// lagFigure shows both in the same unit where they have the same.
function lagFigure({ p50, p99 }) {
  if (p99 === null) return NONE;
  const last = live.stats.lag.bounds_seconds.at(-1);
  const a = short(p50), b = short(p99), over = p99 >= last ? "≥ " : "";
  return a[1] === b[1] ? [`${a[0]} / ${over}${b[0]}`, b[1]] : [`${plain(a)} / ${over}${b[0]}`, b[1]];
}

function gapSum(s) {
  const recent = live.gaps.filter((g) => Date.parse(g.at) > live.sample.at - WINDOW_MS).length;
  return recent === 0 ? "none in 10 minutes" : recent === MAX_GAPS ? `${MAX_GAPS} or more in 10 minutes` : `${recent} in 10 minutes`;
}

/* Top channels */

let sort = "subscribers";

const top50 = table($("top"), {
  label: "Top channels",
  key: (c) => c.channel,
  columns: [
    { label: "Channel", class: "name", once: true, fill: (td, c) => td.append(channelLink(c.channel)) },
    { label: "Subscribers", class: "right", fill: (td, c) => td.append(plain(count(c.subscribers)), sort === "subscribers" ? meter(c.part) : "") },
    { label: "Rate", class: "right", fill: (td, c) => td.append(plain(perSecond(c.rate)), sort === "rate" ? meter(c.part) : "") },
    { label: "In memory", class: "right", fill: (td, c) => td.append(plain(count(c.messages))) },
    { label: "Newest", class: "right", fill: (td, c) => { td.append(c.age); td.title = c.newest ?? ""; } },
  ],
  empty: () => ["No channel has a subscriber or a message in memory. ",
    make("a", { href: "#/channel/user123" }, "Open user123"), " to watch it and publish to it."],
});

function meter(part) {
  const bar = make("i");
  bar.style.width = (100 * part).toFixed(1) + "%";
  return make("span", { class: "meter", "aria-hidden": "true" }, bar);
}

// idAge is how old the newest message is, from the time in its ID.
function idAge(id) {
  const at = Number(String(id ?? "").split("-")[0]);
  return age(at, serverNow());
}

async function loadTop(signal) {
  const { value } = await api(`/api/channels?sort=${sort}&limit=${TOP_CHANNELS}`, { signal });
  const most = Math.max(1e-9, ...value.channels.map((c) => c[sort]));
  return value.channels.map((c) => ({ ...c, part: c[sort] / most, shownBy: sort, age: idAge(c.newest) }));
}

document.querySelectorAll("[data-sort]").forEach((button) => button.addEventListener("click", () => {
  sort = button.dataset.sort;
  document.querySelectorAll("[data-sort]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
  pollAll();
}));

/* Fleet */

const SILENT_MS = 15_000; // instances report every few seconds

const fleet = table($("fleet"), {
  label: "Instances",
  key: (i) => i.instance,
  columns: [
    { label: "Instance", class: "name", fill: fillInstance },
    { label: "State", fill: (td, i) => td.append(i.draining ? tag("draining", "warn") : i.ready ? tag("ready", "good") : tag("not ready", "bad")) },
    { label: "Streams", class: "right", fill: (td, i) => td.append(plain(count(i.streams))) },
    { label: "In", class: "right", fill: (td, i) => td.append(plain(perSecond(i.messages_per_second))) },
    { label: "Out", class: "right", fill: (td, i) => td.append(plain(perSecond(i.deliveries_per_second))) },
    { label: "Lag", class: "right", fill: (td, i) => td.append(plain(short(i.lag_seconds))) },
    { label: "CPU", class: "right", fill: (td, i) => td.append(plain(share(i.cpu))) },
    { label: "Memory", class: "right", fill: (td, i) => td.append(plain(bytes(i.rss_bytes))) },
  ],
  empty: "No instance has reported itself yet.",
});

function fillInstance(td, i) {
  const below = make("div", { class: "below" }, make("span", null, i.version));
  if (i.self) below.append(tag("this one"));
  if (i.writer) below.append(tag("writes history"));
  if (i.leading) below.append(tag("leads clock"));
  if (i.silent) below.append(tag("silent for " + i.silent, "warn"));
  td.append(make("span", { class: "mono" }, visible(i.instance)), below);
  td.title = "started " + day.format(Date.parse(i.started));
}

async function loadFleet(signal) {
  if (document.body.dataset.mode !== "redis") return null;
  const { value } = await api("/api/instances", { signal });
  const list = value.instances;
  const versions = new Set(list.map((i) => i.version));
  setText($("fleet-sum"), `${several(list.length, "instance")}, ${several(list.reduce((n, i) => n + i.streams, 0), "stream")}` + (versions.size > 1 ? `, ${versions.size} versions` : ""));
  return list.map((i) => ({ ...i, silent: serverNow() - Date.parse(i.seen) > SILENT_MS ? age(Date.parse(i.seen), serverNow()) : "" }));
}

/* Partitions: shown where there are several */

const partitions = table($("partitions"), {
  label: "Partitions",
  key: (p) => p.partition,
  columns: [
    { label: "Partition", class: "right", fill: (td, p) => { td.append(String(p.partition)); td.title = p.shard_channel; } },
    { label: "Node", class: "name", fill: (td, p) => td.append(make("span", { class: "mono" }, visible(p.node) || "–")) },
    { label: "State", fill: fillPartitionState },
    { label: "History lag", class: "right", fill: (td, p) => td.append(plain(short(p.watermark_lag_seconds))) },
    { label: "Clock", class: "name", fill: (td, p) => td.append(make("span", { class: "mono" }, visible(p.leader) || "–")) },
    { label: "Writer", class: "name", fill: (td, p) => td.append(make("span", { class: "mono" }, visible(p.writer) || "–")) },
  ],
  empty: "There is one partition.",
});

function fillPartitionState(td, p) {
  td.append(!p.up ? tag("down", "bad") : tag("up", p.problem ? "warn" : "good"));
  td.title = p.reason || p.problem;
}

async function loadPartitions(signal) {
  if (document.body.dataset.mode !== "redis") return null;
  const { value } = await api("/api/partitions", { signal });
  const list = value.partitions, up = list.filter((p) => p.up).length;
  $("partitions-panel").hidden = list.length < 2;
  setText($("partitions-sum"), `${up} of ${list.length} up`);
  return list;
}

/* Gaps */

const gapList = table($("gaps"), {
  label: "Recent gaps",
  key: gapKey,
  columns: [
    { label: "At", class: "nowrap num", fill: (td, g) => { td.append(clock.format(Date.parse(g.at))); td.title = g.at; } },
    { label: "Channel", class: "name", fill: (td, g) => td.append(g.channel ? channelLink(g.channel) : "several or all") },
    { label: "Reason", fill: (td, g) => td.append(tag(g.reason, "bad")) },
    { label: "Told to", fill: (td, g) => td.append(g.live ? "live streams" : "who came back") },
    { label: "Streams", class: "right", fill: (td, g) => td.append(plain(count(g.streams))) },
  ],
  empty: "No client was told of missing messages.",
});

function drawGapList() {
  if ($("overview").hidden) return;
  if (live.gapsError) return gapList.fail(live.gapsError);
  if (!live.stats) return;
  gapList.update(live.gaps);
  setText($("gaps-sum"), live.gaps.length === MAX_GAPS ? `the last ${MAX_GAPS}` : "");
}

live.listeners.push(drawFrame, drawTiles, drawPlots, drawGapList);

function openOverview() {
  const running = [poll(2, loader(top50, loadTop)), poll(3, loader(fleet, loadFleet)), poll(3, loader(partitions, loadPartitions))];
  changed();
  return () => running.forEach((p) => p.stop());
}
