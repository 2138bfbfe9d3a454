// The Runs view: what training measured, live, several runs on one chart; samples and rollouts.
import { h, replace, number, notice, field } from "./dom.js";
import { get, call, events } from "./api.js";
import { heatChart, N_COLOUR } from "./chart.js";
import { lineFigure } from "./readout.js";
import { samplesPanel } from "./samples.js";
import { rolloutsPanel } from "./rollouts.js";

const parts = {};
let runs = [];
const chosen = new Map(); // id -> { run, colour, lines, abort }
const figures = new Map(); // title -> the chart, which stays while what it shows changes
let timer = null, dirty = false, axis = "step", logarithmic = false;

const curves = [
  { key: "ce", title: "Training loss", yLabel: "loss", smooth: true, clipStart: true },
  { key: "val_loss", title: "Validation loss", yLabel: "loss", clipStart: true },
  { key: "aux", title: "Loss parts: balance", smooth: true },
  { key: "z", title: "Loss parts: z", smooth: true },
  { key: "reward_accuracy", title: "Reward accuracy" },
  { key: "reward_margin", title: "Reward margin" },
  { key: "lr", title: "Learning rate" },
  { key: "grad_norm", title: "Gradient norm", smooth: true, fromZero: true },
  { key: "update_rms", title: "Size of updates (RMS)", smooth: true },
  { key: "tps", title: "Throughput", yLabel: "tokens per second", smooth: true, fromZero: true },
  { key: "mem_mb", title: "Memory", yLabel: "MB", fromZero: true },
];

// ---- data ----

function smoothed(y) {
  const half = Math.floor(y.length / 80);
  return y.map((_, i) => {
    let sum = 0, n = 0;
    for (let k = Math.max(0, i - half); k <= Math.min(y.length - 1, i + half); k++) {
      if (Number.isFinite(y[k])) { sum += y[k]; n++; }
    }
    return n ? sum / n : null;
  });
}

// Tokens at a step; evaluations do not say them.
function tokensOf(lines) {
  const at = new Map(lines.filter((l) => l.tokens !== undefined).map((l) => [l.step, l.tokens]));
  return (step) => at.get(step) ?? null;
}

function linesOf(curve) {
  const out = [];
  for (const { run, colour, lines } of chosen.values()) {
    const rows = lines.filter((l) => l[curve.key] !== undefined && (curve.key === "val_loss") === ("val_loss" in l));
    const tokens = axis === "tokens" ? tokensOf(lines) : null;
    const x = rows.map((l) => (tokens ? tokens(l.step) : l.step)), y = rows.map((l) => (logarithmic && curve.clipStart ? Math.log10(l[curve.key]) : l[curve.key]));
    if (!y.some(Number.isFinite)) continue;
    const smooth = curve.smooth && y.length >= 80;
    if (smooth) out.push({ name: run.id, colour, x, y, faint: true });
    out.push({ name: run.id, colour, x, y: smooth ? smoothed(y) : y });
  }
  return out;
}

// Mean over equal parts of the steps: rows are layers.
function loadMap({ run, lines }) {
  const steps = lines.filter((l) => Array.isArray(l.max_load) && l.max_load.length);
  if (!steps.length) return null;
  const n = Math.min(40, steps.length), at = (i) => Math.floor(steps.length * i / n);
  const rows = steps[0].max_load.map((_, layer) => Array.from({ length: n }, (_, c) => {
    const part = steps.slice(at(c), at(c + 1)).map((l) => l.max_load[layer]).filter(Number.isFinite);
    return part.reduce((a, b) => a + b, 0) / part.length;
  }));
  const svg = heatChart({ title: `Load per layer: ${run.id}`, xLabel: "step", yLabel: "expert layer", rows, low: 1,
    high: Math.max(1.5, ...rows.flat().filter(Number.isFinite)), rowName: String, columnName: (c) => String(steps[Math.max(at(c), at(c + 1) - 1)]?.step ?? "") });
  return h("figure", { class: "card" }, svg, h("figcaption", null, "Tokens of the busiest expert over the mean; 1 is even."));
}

// ---- live ----

const lastStep = (lines) => lines.reduce((most, l) => Math.max(most, l.step), 0);
const isSame = (a, b) => a.step === b.step && "val_loss" in a === "val_loss" in b;

// Asked for from the last step on, since its evaluation may have come after it.
function add(entry, line) {
  if (entry.lines.slice(-4).some((l) => isSame(l, line))) return false;
  entry.lines.push(line);
  changed();
  return true;
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// A whole log is thinned by the server; what comes after is followed line by line where a process is training, and
// fetched now and then elsewhere.  A browser keeps few connections to a server: at most so many are streams.
const MOST_STREAMS = 3;
let streams = 0;

async function follow(id) {
  const entry = chosen.get(id), { signal } = entry.abort;
  try {
    if (!entry.lines.length) entry.lines = (await get(`/api/runs/${encodeURIComponent(id)}/metrics?points=800`, signal)).lines;
    changed();
  } catch (error) {
    if (!signal.aborted && error.status) notice(`${id}: ${error.message}`);
  }
  while (!signal.aborted) {
    if (entry.run.active && streams < MOST_STREAMS) await stream(id, entry, signal);
    else await catchUp(id, entry, signal);
    await pause(3);
  }
}

async function stream(id, entry, signal) {
  streams++;
  try {
    const path = `/api/runs/${encodeURIComponent(id)}/metrics/stream?after=${Math.max(0, lastStep(entry.lines) - 1)}`;
    for await (const line of events("GET", path, undefined, signal)) add(entry, line);
  } catch { /* a lost connection: it is made again, from the last step on */ }
  streams--;
}

async function catchUp(id, entry, signal) {
  const state = `${entry.run.step} ${entry.run.val_loss}`, last = lastStep(entry.lines);
  if (state === entry.state) return;
  try {
    const { lines } = await get(`/api/runs/${encodeURIComponent(id)}/metrics?after=${Math.max(0, last - 1)}`, signal);
    for (const line of lines) add(entry, line);
    entry.state = state;
  } catch { /* the next time */ }
}

function changed() {
  if (dirty) return;
  dirty = true;
  setTimeout(() => { dirty = false; if (parts.charts?.isConnected) drawCharts(); }, 400);
}

function choose(run, on) {
  if (on) {
    const used = new Set([...chosen.values()].map((e) => e.colour));
    let colour = 0;
    while (used.has(colour)) colour++;
    chosen.set(run.id, { run, colour, lines: [], abort: new AbortController() });
    follow(run.id);
  } else {
    chosen.get(run.id)?.abort.abort();
    chosen.delete(run.id);
  }
  drawList();
  parts.list.querySelector(`[data-run="${CSS.escape(run.id)}"] input`)?.focus();
  drawCharts();
  drawTexts();
}

// ---- drawing ----

function drawCharts() {
  const drawn = curves.map((c) => [c, linesOf(c)]).filter(([, lines]) => lines.length).map(([c, lines]) => {
    if (!figures.has(c.title)) figures.set(c.title, lineFigure());
    const yLabel = logarithmic && c.clipStart ? "log10 of the loss" : c.yLabel;
    return figures.get(c.title).update({ ...c, yLabel, xLabel: axis, lines });
  });
  const maps = [...chosen.values()].map(loadMap).filter(Boolean), all = [...drawn, ...maps];
  parts.axes.hidden = !all.length;
  if (!all.length) return replace(parts.charts, h("p", { class: "empty" }, chosen.size ? "Nothing measured yet." : runs.length ? "Choose runs to see their curves." : null));
  // Charts that stay where they are keep the focus.
  const cards = parts.charts.querySelector(".cards") ?? h("div", { class: "cards" });
  if (!cards.isConnected) replace(parts.charts, cards);
  all.forEach((figure, i) => { if (cards.children[i] !== figure) { if (drawn.includes(figure) || !cards.children[i] || drawn.includes(cards.children[i])) cards.insertBefore(figure, cards.children[i] ?? null); else cards.children[i].replaceWith(figure); } });
  while (cards.children.length > all.length) cards.lastChild.remove();
}

function note(run) {
  const input = h("input", { value: run.note ?? "", placeholder: "note", "aria-label": `Note on ${run.id}`, maxlength: 500,
    onchange: () => call("PATCH", "/api/runs/" + encodeURIComponent(run.id), { note: input.value })
      .then(() => { run.note = input.value; }).catch((e) => notice(e.message)) });
  return input;
}

const best = (run) => run.checkpoints.find((c) => c.step === run.best_step) ?? run.checkpoints.at(-1);

function row(run) {
  const entry = chosen.get(run.id), checkpoint = best(run);
  const box = h("input", { type: "checkbox", checked: Boolean(entry), onchange: () => choose(run, box.checked), "aria-label": `Show ${run.id}` });
  return h("tr", { "data-run": run.id }, h("td", null, h("label", { class: "pick" }, box,
      h("span", { class: "swatch " + (entry ? "b" + entry.colour % N_COLOUR : "off") }), run.id),
      run.active ? h("span", { class: "badge good" }, "training") : null),
    h("td", null, number(run.step)), h("td", null, number(run.tokens)), h("td", null, nats(run.loss)), h("td", null, nats(run.val_loss)),
    h("td", null, run.best_step ?? "–"),
    h("td", null, checkpoint ? h("a", { href: "#talk/" + encodeURIComponent(checkpoint.model), "aria-label": `Chat with ${checkpoint.model}` }, "Chat") : null),
    h("td", null, note(run)));
}

// A loss, with as many places as its neighbours in the column.
const nats = (x) => typeof x === "number" ? x.toFixed(3) : "–";

const orders = {
  name: (a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }),
  loss: (a, b) => (a.loss ?? Infinity) - (b.loss ?? Infinity),
  validation: (a, b) => (a.val_loss ?? Infinity) - (b.val_loss ?? Infinity),
  step: (a, b) => (b.step ?? -1) - (a.step ?? -1),
};
const MANY = 8; // runs, from which on they can be searched
let order = "name", wanted = "";

const heads = [["run", "name"], ["step", "step"], ["tokens"], ["loss", "loss"], ["validation", "validation"], ["best step"], [""], ["note"]];

function headCell([text, by]) {
  if (!by) return h("th", { scope: "col" }, text || h("span", { class: "hidden" }, "Chat"));
  return h("th", { scope: "col", "aria-sort": order === by ? (by === "step" ? "descending" : "ascending") : null },
    h("button", { type: "button", class: "sort", onclick: () => { order = by; drawList(); parts.list.querySelector(`[data-by=${by}]`)?.focus(); }, "data-by": by },
      text, h("span", { "aria-hidden": "true" }, order === by ? (by === "step" ? " ▾" : " ▴") : "")));
}

function drawList() {
  const list = runs.filter((r) => (r.id + " " + r.note).toLowerCase().includes(wanted)).sort(orders[order]);
  parts.search.hidden = runs.length < MANY;
  replace(parts.list, runs.length ? h("div", { class: "scroll runlist", tabindex: runs.length < MANY ? null : 0, role: "region", "aria-label": "Runs" },
      h("table", { class: "runs" }, h("thead", null, h("tr", null, heads.map(headCell))), h("tbody", null, list.map(row))))
    : h("p", { class: "empty" }, "No runs: start the server with --runs DIR, the folder that training writes its runs to."),
    runs.length && !list.length ? h("p", { class: "empty" }, "No run has that in its name or note.") : null);
}

async function optional(path, key) {
  try {
    return (await get(path))[key];
  } catch (error) {
    if (error.status) notice(error.message);
    return [];
  }
}

// All settings of the chosen runs, those that differ marked.
function optionTable(all) {
  const keys = [...new Set(all.flatMap((r) => Object.keys(r.options)))].sort();
  const differs = (k) => all.some((r) => r.options[k] !== all[0].options[k]);
  const body = h("tbody");
  const draw = (few) => replace(body, keys.filter((k) => !few || differs(k)).map((k) => h("tr", { class: all.length > 1 && differs(k) ? "differs" : null },
    h("th", { scope: "row" }, k), all.map((r) => h("td", { class: "raw" }, r.options[k] ?? "–")))));
  const box = h("input", { type: "checkbox", checked: all.length > 1, onchange: () => draw(box.checked) });
  draw(all.length > 1);
  return h("details", { class: "options" }, h("summary", null, h("h2", null, "Settings")),
    all.length > 1 ? h("label", { class: "tick" }, box, "only those that differ") : null,
    h("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Settings" }, h("table", null, h("thead", null, h("tr", null, h("th", { scope: "col" }, "key"), all.map((r) => h("th", { scope: "col" }, r.id)))), body)));
}

// The samples of the chosen runs, anew when one has gone on; not while somebody is at them.
let sampled = "";

async function drawSamples(always) {
  const state = [...chosen.values()].map(({ run }) => `${run.id} ${run.step}`).join(", ");
  if (!always && (state === sampled || parts.samples.contains(document.activeElement))) return;
  sampled = state;
  const all = await Promise.all([...chosen].map(async ([id, { colour }]) => (
    { id, colour, samples: await optional(`/api/runs/${encodeURIComponent(id)}/samples`, "samples") })));
  if (sampled === state) replace(parts.samples, samplesPanel(all));
}

// Rollouts stay with their search while other runs are chosen; those of a run that goes on are asked for again.
const rollouts = new Map(); // id -> the panel, and the step at which it was asked for

function drawRollouts() {
  for (const id of rollouts.keys()) if (!chosen.has(id)) rollouts.delete(id);
  for (const { run } of chosen.values()) {
    const seen = rollouts.get(run.id);
    if (!seen) rollouts.set(run.id, { ...rolloutsPanel(run.id), step: run.step });
    else if (run.active || run.step !== seen.step) { seen.step = run.step; seen.refresh(); }
  }
  const nodes = [...chosen.keys()].map((id) => rollouts.get(id).node);
  if (nodes.length !== parts.rollouts.children.length || nodes.some((n, i) => n !== parts.rollouts.children[i])) replace(parts.rollouts, nodes);
}

let drawing = 0; // the newest drawTexts wins

async function drawTexts() {
  const mine = ++drawing;
  drawSamples(true);
  drawRollouts();
  const all = await Promise.all([...chosen].map(async ([id, { colour }]) => {
    return { id, colour, options: await optional(`/api/runs/${encodeURIComponent(id)}/options`, "options") };
  }));
  if (mine !== drawing) return;
  const configured = all.filter((r) => Object.keys(r.options).length);
  replace(parts.texts, configured.length ? optionTable(configured) : null);
}

async function refresh() {
  runs = (await get("/api/runs")).runs;
  for (const entry of chosen.values()) entry.run = runs.find((r) => r.id === entry.run.id) ?? entry.run;
  if (!document.activeElement?.matches(".runs input:not([type])")) drawList(); // a note being written stays
  drawSamples(false);
  drawRollouts();
}

function axes() {
  const select = h("select", { name: "axis", onchange: () => { axis = select.value; drawCharts(); } },
    h("option", { value: "step", selected: axis === "step" }, "steps"), h("option", { value: "tokens", selected: axis === "tokens" }, "tokens"));
  const box = h("input", { type: "checkbox", name: "log", checked: logarithmic, onchange: () => { logarithmic = box.checked; drawCharts(); } });
  return h("div", { class: "axes" }, h("label", { class: "tick" }, "Over", select), h("label", { class: "tick" }, box, "logarithm of losses"),
           h("span", { class: "soft" }, "Point at a chart to read values."));
}

export const runsView = {
  keys: [["Space", "show a run, or not"], ["←  →", "read values of a chart"], ["Shift+←  Shift+→", "in larger steps"], ["Home  End", "at its ends"]],
  async show(main, argument) {
    parts.list = h("div");
    parts.charts = h("div");
    parts.samples = h("div");
    parts.rollouts = h("div");
    parts.texts = h("div");
    parts.axes = axes();
    parts.axes.hidden = true;
    parts.search = h("input", { type: "search", class: "find", placeholder: "Search runs", "aria-label": "Search runs", value: wanted, hidden: true,
      oninput: () => { wanted = parts.search.value.trim().toLowerCase(); drawList(); } });
    replace(main, h("div", { class: "page" }, h("h1", null, "Runs"), parts.search, parts.list, parts.axes, parts.charts, parts.samples, parts.rollouts, parts.texts));
    await refresh();
    const first = runs.find((r) => r.id === argument) ?? runs.find((r) => r.active) ?? runs[0];
    if (!chosen.size && first) choose(first, true);
    else {
      for (const id of chosen.keys()) { chosen.get(id).abort = new AbortController(); follow(id); }
      drawCharts();
      await drawTexts();
    }
    timer = setInterval(() => refresh().catch((e) => { if (e.status) notice(e.message); }), 10000);
  },
  async change(argument) {
    const run = runs.find((r) => r.id === argument);
    if (run && !chosen.has(run.id)) choose(run, true);
  },
  hide() {
    clearInterval(timer);
    for (const entry of chosen.values()) entry.abort.abort();
  },
};
