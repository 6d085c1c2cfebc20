
/* One channel: who listens, publish, watch, connections, history */

const HISTORY_PAGE = 50;
const HISTORY_SHOWN = 1_024; // characters of an entry

const channelTiles = {
  here: tile($("channel-tiles"), "Subscribers here"),
  fleet: tile($("channel-tiles"), "Subscribers in the fleet", "redis"),
  rate: tile($("channel-tiles"), "Messages"),
  memory: tile($("channel-tiles"), "In memory here"),
  newest: tile($("channel-tiles"), "Newest message"),
  policy: tile($("channel-tiles"), "Policy"),
};

async function loadChannel(signal) {
  const name = watch.channel;
  try {
    const { value: c } = await api("/api/channels/" + encodeURIComponent(name), { signal });
    if (signal.aborted) return;
    channelTiles.here(count(c.subscribers), "this instance");
    channelTiles.fleet(c.fleet ? count(c.fleet.subscribers) : NONE, c.fleet ? fleetText(c.fleet) : "the others could not be asked");
    channelTiles.fleet.element.title = c.fleet ? c.fleet.instances.map((i) => `${i.instance}: ${i.subscribers}`).join("\n") : "";
    channelTiles.rate(perSecond(c.rate), "over the last 10 s");
    channelTiles.memory(count(c.messages), c.messages === 1 ? "message" : "messages");
    channelTiles.newest([c.messages > 0 ? idAge(c.newest) + " ago" : "–", ""], c.messages > 0 ? c.newest : "none in memory");
    channelTiles.policy(...policyText(c.policy));
    $("channel-error").hidden = true;
  } catch (error) {
    if (signal.aborted) return;
    $("channel-error").hidden = false;
    setText($("channel-error"), error.message);
  }
}

/* A policy is a glob, the last = of it, and its settings. */
function policyText(policy) {
  if (!policy) return [NONE, "none: as for all channels"];
  const at = policy.lastIndexOf("=");
  return [[visible(policy.slice(0, at)), ""], policy.slice(at + 1).replaceAll(",", ", ")];
}

const fleetText = (f) => f.answered < f.asked ? `${f.answered} of ${f.asked} instances answered` : "on " + several(f.asked, "instance");

/* Publishing */

async function publish() {
  const answer = $("publish-answer");
  const channel = watch.channel, said = (kind, text) => { if (watch.channel === channel) { answer.className = kind; answer.textContent = text; } };
  const message = { channel_id: channel, data: $("publish-data").value };
  if ($("publish-event").value) message.event_type = $("publish-event").value;
  if ($("publish-id").value) message.id = $("publish-id").value;
  said("", "publishing…");
  try {
    const { status, value } = await api("/api/send", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(message) });
    said("good", status === 202 ? `taken, not numbered in time; Redis gave it to ${several(value.receivers, "receiver")}` : `published as ${value.id}`);
    channelPolls.forEach((p) => p.now());
  } catch (error) {
    said("bad", error.message);
  }
}

$("publish").addEventListener("submit", (e) => { e.preventDefault(); publish(); });
$("publish").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); publish(); }
});

/* History */

const historyPages = pager($("history-pager"), () => { historyList.reset(); channelPolls.forEach((p) => p.now()); }, "Older", "Newer");
const historyList = table($("history"), {
  label: "History, newest first",
  key: (e) => e.gap ? "gap " + e.reason + e.oldest : e.id,
  columns: [
    { label: "ID", class: "nowrap bare", fill: fillEntryId },
    { label: "Event", class: "bare", fill: (td, e) => td.append(e.gap ? tag("gap", "bad") : e.event && e.event !== "message" ? tag(visible(e.event)) : "") },
    { label: "Data", class: "data", fill: fillEntryData },
  ],
  empty: "No history of this channel.",
});

function fillEntryId(td, e) {
  if (e.id) td.append(make("span", { class: "mono muted" }, e.id));
  if (e.publisher_id) td.append(make("br"), make("span", { class: "mono" }, visible(e.publisher_id)));
}

function fillEntryData(td, e) {
  if (e.gap) return td.append(e.reason + (e.oldest ? `; the first that is left is ${e.oldest}` : ""));
  td.append(e.data.slice(0, HISTORY_SHOWN));
  if (e.data.length <= HISTORY_SHOWN) return;
  const more = make("button", { type: "button", class: "small", click: () => td.replaceChildren(e.data) },
    `Show ${plain(count(e.data.length - HISTORY_SHOWN))} more characters`);
  td.append(" ", more);
}

async function loadHistoryPage(after, signal) {
  const path = "/api/history/" + encodeURIComponent(watch.channel);
  return (await api(place(path, { order: "newest", limit: String(HISTORY_PAGE), after }), { signal })).value;
}

async function loadHistory(signal) {
  if (document.body.dataset.mode !== "redis") return null;
  const value = await loadHistoryPage(historyPages.after, signal);
  const gaps = (value.gaps ?? []).map((g) => ({ ...g, gap: true }));
  historyPages.show(value.events.length, value.next);
  $("history-delete").disabled = value.events.length === 0 && historyPages.after === "";
  return [...gaps, ...value.events];
}

$("history-delete").addEventListener("click", async () => {
  const name = watch.channel;
  if (!await confirmed("Delete the history?", `All kept messages of ${visible(name)} are deleted, for every instance. Clients that come back later are told of a gap.`, "Delete it")) return;
  try {
    await api("/api/history/" + encodeURIComponent(name), { method: "DELETE" });
    historyPages.reset();
  } catch (error) {
    return historyList.fail(error);
  }
  channelPolls.forEach((p) => p.now());
});

/* The view */

const channelConnections = connectionList($("channel-connections"), $("channel-connections-pager"), () => watch.channel);
let channelPolls = [];

function openChannel(name) {
  watch.channel = name;
  $("channel-name").replaceChildren(make("bdi", null, visible(name)));
  $("publish-answer").textContent = "";
  $("watch-after").value = "";
  $("channel-error").hidden = true;
  for (const set of Object.values(channelTiles)) set(NONE, "");
  historyPages.reset();
  historyList.reset();
  clearWatch();
  const endConnections = channelConnections.open();
  channelPolls = [poll(2, loadChannel), poll(5, loader(historyList, loadHistory))];
  startWatch();
  return () => {
    stopWatch();
    endConnections();
    channelPolls.forEach((p) => p.stop());
    channelPolls = [];
  };
}
