
"use strict";

const $ = (id) => document.getElementById(id);
const settings = JSON.parse($("settings").value);

// make builds an element. Children that are strings become text: there is no way
// from a payload to markup on this page.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined && c !== ""));
  return element;
}

// The parser knows the name space of a drawing.
const SVG = document.querySelector("svg").namespaceURI;

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  return element;
}

// setText leaves the node alone when nothing changed: a selection survives.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// visible shows what a name hides: control characters, and the marks that turn the
// direction of writing and make one name look like another.
function visible(name) {
  return name.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}

/* Numbers. Each returns [figure, unit], so that a tile can set them apart. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const NONE = ["–", ""];

function count(n) {
  if (!Number.isFinite(n)) return NONE;
  if (n >= 1e9) return [digits.format(n / 1e9) + " bn", ""];
  if (n >= 1e6) return [digits.format(n / 1e6) + " M", ""];
  return [n < 10 ? fine.format(n) : whole.format(n), ""];
}

function perSecond(n) {
  const [figure] = count(n);
  return figure === "–" ? NONE : [figure, "/s"];
}

function bytes(n) {
  if (!Number.isFinite(n)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1024;
  return [n < 10 && i > 0 ? fine.format(n) : whole.format(n), units[i]];
}

function bytesPerSecond(n) {
  const [figure, unit] = bytes(n);
  return figure === "–" ? NONE : [figure, unit + "/s"];
}

function share(n) {
  if (!Number.isFinite(n)) return NONE;
  return [n > 0 && n < 0.1 ? fine.format(100 * n) : whole.format(100 * n), "%"];
}

// short is a duration at the scale of a delivery.
function short(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds === 0) return ["0", "ms"];
  if (seconds < 0.001) return [whole.format(seconds * 1e6), "µs"];
  if (seconds < 1) return [seconds < 0.1 ? fine.format(seconds * 1e3) : whole.format(seconds * 1e3), "ms"];
  return seconds < 100 ? [fine.format(seconds), "s"] : long(seconds);
}

// long is a duration at the scale of an uptime.
function long(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return [`${s} s`, ""];
  if (s < 3600) return [`${Math.floor(s / 60)} m ${s % 60} s`, ""];
  if (s < 86400) return [`${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} m`, ""];
  return [`${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`, ""];
}

const plain = ([figure, unit]) => unit === "/s" || unit === "%" || unit === "" ? figure + unit : figure + " " + unit;

const several = (n, one, more) => `${plain(count(n))} ${n === 1 ? one : more ?? one + "s"}`;

const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const clockShort = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

// age is the time since, as text; an unset time of Go is in the year 1.
function age(at, now) {
  return at > 0 ? plain(long((now - at) / 1000)) : "–";
}

/* The server */

const PATIENCE_MS = 10_000; // for any answer but a stream

// api returns the parsed answer, or throws what the server said about the failure. The
// origin is named because a page opened as //user:password@host may not fetch a bare path.
async function api(path, options = {}) {
  const timeout = AbortSignal.timeout(PATIENCE_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
  let response, text;
  try {
    response = await fetch(location.origin + path, { cache: "no-store", ...options, signal });
    text = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error(timeout.aborted ? "no answer within 10 s" : "no answer from this instance");
  }
  let value = null;
  try { value = JSON.parse(text); } catch { /* an answer without a body, or from something in between */ }
  if (!response.ok) throw new Error(value?.error ? `${response.status}: ${value.error}` : `${response.status} ${response.statusText}`);
  return { status: response.status, value };
}

// poll runs work now and then every so many seconds, never twice at once, while the
// page is seen and the server answers. It returns what runs it at once, and what ends it.
function poll(seconds, work) {
  const abort = new AbortController();
  let timer = 0, running = false, again = false;
  async function now() {
    if (running) { again = true; return; }
    clearTimeout(timer);
    running = true;
    do {
      again = false;
      if (!document.hidden && document.body.dataset.live !== "lost") await work(abort.signal);
    } while (again && !abort.signal.aborted);
    running = false;
    if (!abort.signal.aborted) timer = setTimeout(now, seconds * 1000);
  }
  const entry = { now, stop() { abort.abort(); clearTimeout(timer); polls.delete(entry); } };
  polls.add(entry);
  now();
  return entry;
}

const polls = new Set();
const pollAll = () => polls.forEach((entry) => entry.now());

document.addEventListener("visibilitychange", () => { if (!document.hidden) pollAll(); });

/* Lists */

// table shows rows under a host element. Rows are kept by key, so that the focus, a
// selection and the scroll position survive a refresh.
// columns: {label, class, fill(cell, row), once, unseen}; once: filled only when the row
// is new; unseen: the label is for screen readers.
function table(host, { label, columns, key, empty }) {
  const body = make("tbody");
  const head = make("tr", null, ...columns.map((c) => make("th", { scope: "col", class: c.class }, c.unseen ? make("span", { class: "unseen" }, c.label) : c.label)));
  const grid = make("table", { "aria-label": label }, make("thead", null, head), body);
  const note = make("p", { class: "empty busy" }, "Loading");
  const shown = new Map();
  host.replaceChildren(note, grid);
  grid.hidden = true;

  function place(row, before) {
    const id = key(row), now = JSON.stringify(row);
    let entry = shown.get(id);
    if (!entry) {
      const cells = columns.map((c) => make("td", { class: c.class, "data-label": c.label }));
      shown.set(id, entry = { element: make("tr", null, ...cells), cells, was: "" });
    }
    if (entry.was !== now) {
      columns.forEach((c, i) => { if (!c.once || entry.was === "") { entry.cells[i].replaceChildren(); c.fill(entry.cells[i], row); } });
      entry.was = now;
    }
    if (entry.element !== before) body.insertBefore(entry.element, before);
    return entry.element.nextElementSibling;
  }
  return {
    update(rows) {
      const keep = new Set(rows.map(key));
      for (const [id, entry] of shown) if (!keep.has(id)) { entry.element.remove(); shown.delete(id); }
      let before = body.firstElementChild;
      for (const row of rows) before = place(row, before);
      note.hidden = rows.length > 0;
      note.className = "empty";
      note.replaceChildren(...[typeof empty === "function" ? empty() : empty].flat());
      grid.hidden = rows.length === 0;
      grid.classList.remove("stale");
    },
    fail(error) {
      note.hidden = false;
      note.className = "problem";
      note.textContent = error.message;
      grid.classList.add("stale");
    },
    reset() {
      shown.clear();
      body.replaceChildren();
      grid.hidden = true;
      note.hidden = false;
      note.className = "empty busy";
      note.textContent = "Loading";
    },
  };
}

// loader makes the work of a poll out of what fetches and what shows. load may return
// null: nothing to show yet. What arrives after the poll was stopped is of no interest.
function loader(list, load) {
  return async (signal) => {
    try {
      const rows = await load(signal);
      if (rows && !signal.aborted) list.update(rows);
    } catch (error) {
      if (!signal.aborted) list.fail(error);
    }
  };
}

const channelLink = (name) => make("a", { href: "#/channel/" + encodeURIComponent(name), class: "mono" }, make("bdi", null, visible(name)));
const tag = (text, kind) => make("span", { class: "tag " + (kind ?? "") }, text);

/* Asking before something that cannot be taken back */

/* The close event of a dialog comes some time after it has closed. By then it may be open again,
   for another question. That one must not take the answer of the one before. */
let answerConfirm = () => {};

function confirmed(title, text, verb) {
  const dialog = $("confirm");
  answerConfirm(dialog.returnValue === "ok");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-ok").textContent = verb;
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => { answerConfirm = resolve; });
}

$("confirm").addEventListener("close", () => {
  if (!$("confirm").open) answerConfirm($("confirm").returnValue === "ok");
});

/* Light and dark: as the system says, until somebody chooses. */

const THEMES = ["auto", "light", "dark"];

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
  $("theme").setAttribute("aria-label", "Theme: " + theme + ". Change");
}

function storedTheme() {
  try { return THEMES.find((t) => t === localStorage.getItem("theme")) ?? "auto"; } catch { return "auto"; }
}

$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
  try { localStorage.setItem("theme", next); } catch { /* storage is off: for this visit then */ }
  showTheme(next);
});
showTheme(storedTheme());
