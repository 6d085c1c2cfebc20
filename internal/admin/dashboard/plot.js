
/* Line plots over the last ten minutes. One cursor goes through all of them. */

const PLOT_HEIGHT = 112, PLOT_LEFT = 46, PLOT_RIGHT = 6, PLOT_TOP = 8, PLOT_BOTTOM = 16;
const LEAST_SPAN_MS = 60_000;
const LABEL_STEPS_MS = [15_000, 30_000, 60_000, 120_000, 240_000];
const SLOTS_MS = [1_000, 2_000, 5_000];
const BREAK_MS = 3_500; // samples further apart are not joined

const plots = [];
let cursor = null; // time under the pointer, null: none

// ceiling is the round number at the top of an axis, for values up to max.
function ceiling(max, base) {
  if (!(max > 0)) return 0;
  const scale = base ** Math.floor(Math.log(max) / Math.log(base));
  const steps = base === 10 ? [1, 1.6, 2, 3, 4, 5, 6, 8, 10] // halves of these are short too
    : [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];
  return scale * steps.find((s) => s * scale >= max * 0.999999);
}

// definition: {title, format, lines: [{name, of}], base, least, whole}; least is the top of
// an axis on which nothing happens; whole: half of the top must be a whole number too.
function plot(host, definition) {
  const element = make("div", { class: "plot", tabindex: "0", role: "img" });
  const legend = make("div", { class: "legend" }, make("span", { class: "name" }, definition.title));
  const entries = definition.lines.map((line, i) => {
    const entry = make("span", { class: "entry" + (i > 0 ? " second" : "") });
    legend.append(entry);
    return entry;
  });
  const canvas = svg("svg", { "aria-hidden": "true" });
  const grid = svg("g"), area = svg("path", { class: "area" }), marks = svg("g");
  const paths = definition.lines.map((_, i) => svg("path", { class: "line" + (i > 0 ? " second" : "") }));
  const bands = definition.lines.map((_, i) => svg("path", { class: "band" + (i > 0 ? " second" : "") }));
  const rule = svg("line", { class: "cursor", y1: PLOT_TOP, y2: PLOT_HEIGHT - PLOT_BOTTOM });
  const dots = definition.lines.map((_, i) => svg("circle", { class: "dot" + (i > 0 ? " second" : ""), r: 3 }));
  canvas.append(grid, area, marks, ...[...bands].reverse(), ...[...paths].reverse(), rule, ...dots);
  element.append(legend, canvas);
  host.append(element);
  const p = { definition, element, entries, canvas, grid, area, marks, bands, paths, rule, dots, width: 0, top: 1 };
  plots.push(p);
  new ResizeObserver(() => {
    p.width = canvas.clientWidth;
    canvas.setAttribute("viewBox", `0 0 ${Math.max(1, p.width)} ${PLOT_HEIGHT}`);
    changed();
  }).observe(canvas);
  element.addEventListener("pointermove", (e) => {
    const box = canvas.getBoundingClientRect();
    moveCursor(timeAt(p, e.clientX - box.left));
  });
  element.addEventListener("pointerleave", () => moveCursor(null));
  element.addEventListener("blur", () => moveCursor(null));
  element.addEventListener("keydown", stepCursor);
}

const plotEnd = () => live.sample?.at ?? 0;

// plotSpan is how much time the axis has: a page that was just opened has no ten minutes.
const plotSpan = () => Math.min(WINDOW_MS, Math.max(LEAST_SPAN_MS, plotEnd() - (live.samples[0]?.at ?? 0)));
const plotStart = () => plotEnd() - plotSpan();
const xOf = (p, at) => PLOT_LEFT + (at - plotStart()) / plotSpan() * (p.width - PLOT_LEFT - PLOT_RIGHT);
const yOf = (p, value) => PLOT_TOP + (1 - value / p.top) * (PLOT_HEIGHT - PLOT_TOP - PLOT_BOTTOM);
const timeAt = (p, x) => plotStart() + (x - PLOT_LEFT) / (p.width - PLOT_LEFT - PLOT_RIGHT) * plotSpan();

function moveCursor(at) {
  cursor = at;
  changed();
}

function stepCursor(event) {
  const { samples } = live;
  const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -Infinity, End: Infinity }[event.key];
  if (event.key === "Escape") return moveCursor(null);
  if (step === undefined || samples.length === 0) return;
  event.preventDefault();
  const from = cursor === null ? samples.length : samples.indexOf(nearest(cursor));
  moveCursor(samples[Math.min(samples.length - 1, Math.max(0, from + step))].at);
}

// nearest is the sample closest to a time, by halving.
function nearest(at) {
  const { samples } = live;
  let low = 0, high = samples.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (samples[middle].at < at) low = middle + 1; else high = middle;
  }
  if (low > 0 && at - samples[low - 1].at < samples[low].at - at) low--;
  return samples[low];
}

// segmentsOf gathers the samples of a few pixels into points, with breaks where nothing is
// known. Slots are of absolute time, so that a point does not change as it moves along.
function segmentsOf(p, of) {
  const slotMs = SLOTS_MS.find((ms) => ms / plotSpan() * (p.width - PLOT_LEFT - PLOT_RIGHT) >= 2) ?? SLOTS_MS.at(-1);
  const segments = [];
  let segment, point, last = -Infinity;
  for (const s of live.samples) {
    const value = of(s);
    if (value === null || s.at < plotStart()) continue;
    const slot = Math.floor(s.at / slotMs);
    if (s.at - last >= BREAK_MS) segments.push(segment = []);
    if (segment.length === 0 || point.slot !== slot) segment.push(point = { slot, n: 0, at: 0, sum: 0, min: value, max: value });
    point.n++;
    point.at += s.at;
    point.sum += value;
    point.min = Math.min(point.min, value);
    point.max = Math.max(point.max, value);
    last = s.at;
  }
  return segments;
}

// pathsOf draws the line of the means, the area under it, and the band from the least to
// the most of each point: a peak of one second is seen, and noise stays quiet.
function pathsOf(p, of) {
  let line = "", area = "", band = "";
  const floor = yOf(p, 0).toFixed(1);
  for (const segment of segmentsOf(p, of)) {
    const x = segment.map((point) => xOf(p, point.at / point.n).toFixed(1));
    const through = (value) => segment.map((point, i) => x[i] + " " + yOf(p, value(point)).toFixed(1));
    const mean = through((point) => point.sum / point.n).join("L");
    line += "M" + mean;
    area += `M${x[0]} ${floor}L${mean}L${x.at(-1)} ${floor}Z`;
    band += `M${through((point) => point.max).join("L")}L${through((point) => point.min).reverse().join("L")}Z`;
  }
  return { line, area, band };
}

function drawGrid(p) {
  const right = p.width - PLOT_RIGHT, nodes = [];
  const label = (x, y, text, anchor) => {
    const node = svg("text", { x, y, "text-anchor": anchor });
    node.textContent = text;
    nodes.push(node);
  };
  for (const part of [0, 0.5, 1]) {
    const y = Math.round(yOf(p, p.top * part)) + 0.5;
    nodes.push(svg("line", { class: "grid", x1: PLOT_LEFT, x2: right, y1: y, y2: y }));
    label(PLOT_LEFT - 6, y + 3, part === 0 ? "0" : plain(p.definition.format(p.top * part)).replace("/s", ""), "end");
  }
  const every = LABEL_STEPS_MS.find((step) => plotSpan() / step <= (right - PLOT_LEFT) / 50) ?? LABEL_STEPS_MS.at(-1);
  const format = every < 60_000 ? clock : clockShort;
  for (let at = Math.ceil(plotStart() / every) * every; at < plotEnd(); at += every) {
    const x = xOf(p, at);
    if (x > PLOT_LEFT + 12 && x < right - 16) label(x, PLOT_HEIGHT - 4, format.format(at), "middle");
  }
  p.grid.replaceChildren(...nodes);
}

// drawGaps marks each gap; those closer than a pixel are one mark.
function drawGaps(p) {
  const seen = new Set(), nodes = [];
  for (const gap of live.gaps) {
    const at = Date.parse(gap.at), x = Math.round(xOf(p, at));
    if (at < plotStart() || x > p.width - PLOT_RIGHT + 1 || seen.has(x)) continue;
    seen.add(x);
    nodes.push(svg("line", { class: "gap", x1: x + 0.5, x2: x + 0.5, y1: PLOT_TOP, y2: PLOT_HEIGHT - PLOT_BOTTOM }),
      svg("path", { class: "gap-mark", d: `M${x - 3} ${PLOT_TOP - 6}h7l-3.5 6Z` }));
  }
  p.marks.replaceChildren(...nodes);
}

function drawPlot(p) {
  if (!live.sample || p.width <= 0) return;
  const { lines, format, base, least, whole: even } = p.definition;
  let max = 0;
  for (const s of live.samples) for (const { of } of lines) max = Math.max(max, of(s) ?? 0);
  p.top = Math.max(ceiling(max, base ?? 10), least);
  if (even) p.top += p.top % 2;
  drawGrid(p);
  drawGaps(p);
  lines.forEach(({ of }, i) => {
    const { line, area, band } = pathsOf(p, of);
    p.paths[i].setAttribute("d", line);
    p.bands[i].setAttribute("d", band);
    if (i === 0) p.area.setAttribute("d", area);
  });
  drawCursor(p);
  const now = lines.map(({ name, of }) => `${name} ${plain(format(of(live.sample) ?? NaN))}`).join(", ");
  p.element.setAttribute("aria-label", `${p.definition.title}: ${now} now; top of the axis ${plain(format(p.top))}`);
}

function drawCursor(p) {
  const sample = cursor === null ? live.sample : nearest(cursor);
  const x = xOf(p, sample.at);
  const seen = cursor !== null && x >= PLOT_LEFT;
  p.rule.style.display = seen ? "" : "none";
  p.rule.setAttribute("x1", Math.round(x) + 0.5);
  p.rule.setAttribute("x2", Math.round(x) + 0.5);
  p.definition.lines.forEach(({ name, of }, i) => {
    const value = of(sample);
    setText(p.entries[i], (name ? name + " " : "") + plain(p.definition.format(value ?? NaN)));
    p.dots[i].style.display = seen && value !== null ? "" : "none";
    if (seen && value !== null) {
      p.dots[i].setAttribute("cx", x.toFixed(1));
      p.dots[i].setAttribute("cy", yOf(p, value).toFixed(1));
    }
  });
}

function drawPlots() {
  if ($("overview").hidden || !live.sample) return;
  const minutes = Math.round(plotSpan() / 60_000);
  setText($("plots-title"), minutes > 1 ? `Last ${minutes} minutes` : "Last minute");
  setText($("plots-time"), cursor === null ? "" : clock.format(nearest(cursor).at));
  if ($("plots").hidden) fillValues();
  else plots.forEach(drawPlot);
}

/* The same as a table, half a minute a row */

const SLOT_MS = 30_000;
let valuesFor = "";

function fillValues() {
  const slots = new Map();
  for (const s of live.samples) {
    const slot = Math.floor(s.at / SLOT_MS) * SLOT_MS;
    if (!slots.has(slot)) slots.set(slot, []);
    slots.get(slot).push(s);
  }
  const state = [...slots.keys()].at(-1) + " " + Math.floor(live.sample.at / 5_000) + " " + live.gaps.length;
  if (state === valuesFor) return; // a new figure every five seconds can be read
  valuesFor = state;
  const lines = plots.flatMap((p) => p.definition.lines.map((line) => ({ ...line, p: p.definition })));
  const [head, body] = $("plots-values").querySelectorAll("thead, tbody");
  head.replaceChildren(make("tr", null, make("th", { scope: "col" }, "From"),
    ...lines.map(({ name, p }) => make("th", { scope: "col", class: "right" }, p.lines.length > 1 ? `${p.title} ${name}` : p.title)),
    make("th", { scope: "col", class: "right" }, "Gaps")));
  body.replaceChildren(...[...slots].reverse().map(([slot, list]) => make("tr", null,
    make("th", { scope: "row" }, clock.format(slot)),
    ...lines.map(({ of, p }) => make("td", { class: "right" }, plain(p.format(meanOf(list.map(of)))))),
    make("td", { class: "right" }, String(live.gaps.filter((g) => Math.floor(Date.parse(g.at) / SLOT_MS) * SLOT_MS === slot).length)))));
}

function meanOf(values) {
  const known = values.filter((v) => v !== null);
  return known.length > 0 ? known.reduce((a, b) => a + b, 0) / known.length : NaN;
}

$("plots-table").addEventListener("click", () => {
  const asTable = $("plots-values").hidden;
  $("plots-values").hidden = !asTable;
  $("plots").hidden = asTable;
  valuesFor = "";
  $("plots-table").setAttribute("aria-pressed", String(asTable));
  $("plots-table").textContent = asTable ? "Show as plots" : "Show as table";
  changed();
});
