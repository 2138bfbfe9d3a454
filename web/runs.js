// The Runs view: what training measured, live, several runs on one chart; samples and rollouts.
import { h, replace, number, notice } from "./dom.js";
import { get, call, events } from "./api.js";
import { lineChart, heatChart, N_COLOUR } from "./chart.js";

const parts = {};
let runs = [];
const chosen = new Map(); // id -> { run, colour, lines, abort }
let timer = null, dirty = false;

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

function linesOf(curve) {
  const out = [];
  for (const { run, colour, lines } of chosen.values()) {
    const rows = lines.filter((l) => l[curve.key] !== undefined && (curve.key === "val_loss") === ("val_loss" in l));
    const x = rows.map((l) => l.step), y = rows.map((l) => l[curve.key]);
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
  return heatChart({ title: `Load per layer: ${run.id}`, xLabel: "step", yLabel: "expert layer", rows, low: 1,
    high: Math.max(1.5, ...rows.flat().filter(Number.isFinite)), rowName: String, columnName: (c) => String(steps[Math.max(at(c), at(c + 1) - 1)]?.step ?? "") });
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
    if (!signal.aborted) notice(`${id}: ${error.message}`);
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
  const figures = curves.map((c) => [c, linesOf(c)]).filter(([, lines]) => lines.length)
    .map(([c, lines]) => h("figure", { class: "card" }, lineChart({ ...c, xLabel: "step", lines })));
  const maps = [...chosen.values()].map(loadMap).filter(Boolean).map((svg) => h("figure", { class: "card" }, svg));
  replace(parts.charts, figures.length || maps.length ? h("div", { class: "cards" }, figures, maps)
    : h("p", { class: "empty" }, chosen.size ? "Nothing measured yet." : "Choose runs to see their curves."));
}

function note(run) {
  const input = h("input", { value: run.note ?? "", placeholder: "note", "aria-label": `Note on ${run.id}`, maxlength: 500,
    onchange: () => call("PATCH", "/api/runs/" + encodeURIComponent(run.id), { note: input.value })
      .then(() => { run.note = input.value; }).catch((e) => notice(e.message)) });
  return input;
}

function row(run) {
  const entry = chosen.get(run.id);
  const box = h("input", { type: "checkbox", checked: Boolean(entry), onchange: () => choose(run, box.checked), "aria-label": `Show ${run.id}` });
  return h("tr", { "data-run": run.id }, h("td", null, h("label", { class: "pick" }, box,
      h("span", { class: "swatch " + (entry ? "b" + entry.colour % N_COLOUR : "off") }), run.id),
      run.active ? h("span", { class: "badge good" }, "training") : null),
    h("td", null, number(run.step)), h("td", null, number(run.tokens)), h("td", null, number(run.loss)), h("td", null, number(run.val_loss)),
    h("td", null, run.best_step ?? "–"), h("td", null, note(run)));
}

function drawList() {
  const head = ["Run", "step", "tokens", "loss", "validation", "best step", "note"];
  replace(parts.list, runs.length ? h("div", { class: "scroll" }, h("table", { class: "runs" }, h("thead", null, h("tr", null, head.map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", null, runs.map(row)))) : h("p", { class: "empty" }, "No runs: start the server with --runs DIR, the folder that training writes its runs to."));
}

async function optional(path, key) {
  try {
    return (await get(path))[key];
  } catch (error) {
    notice(error.message);
    return [];
  }
}

function sampleCard(id, s) {
  return h("article", { class: "card sample" }, h("h4", null, `${id}, step ${s.step}`), h("p", { class: "raw" }, h("strong", null, s.prompt), s.text));
}

// Rollouts are records of any shape: the keys of the first are the columns.
function rolloutTable(id, rollouts) {
  const keys = [...new Set(rollouts.flatMap(Object.keys))].slice(0, 12);
  const cell = (v) => v === undefined || v === null ? "" : typeof v === "number" ? number(v) : typeof v === "object" ? JSON.stringify(v) : String(v);
  return h("section", null, h("h3", null, `Rollouts: ${id}`), h("div", { class: "scroll tall" }, h("table", null,
    h("thead", null, h("tr", null, keys.map((k) => h("th", { scope: "col" }, k)))),
    h("tbody", null, rollouts.slice(-200).reverse().map((r) => h("tr", null, keys.map((k) => h("td", { class: "raw" }, cell(r[k])))))))));
}

function optionTable(id, options) {
  return h("details", null, h("summary", null, `Settings: ${id}`), h("table", null, h("tbody", null,
    Object.entries(options).map(([k, v]) => h("tr", null, h("th", { scope: "row" }, k), h("td", { class: "raw" }, v))))));
}

let drawing = 0; // the newest drawTexts wins

async function drawTexts() {
  const mine = ++drawing;
  const all = await Promise.all([...chosen.keys()].map(async (id) => {
    const path = "/api/runs/" + encodeURIComponent(id);
    const [samples, rollouts, options] = await Promise.all([optional(path + "/samples", "samples"), optional(path + "/rollouts", "rollouts"),
                                                            optional(path + "/options", "options")]);
    return { id, samples, rollouts, options };
  }));
  if (mine !== drawing) return;
  const samples = all.flatMap(({ id, samples: list }) => list.map((s) => ({ id, s }))).sort((a, b) => a.s.step - b.s.step);
  replace(parts.texts,
    samples.length ? h("section", null, h("h2", null, "Samples over time"), h("div", { class: "cards" }, samples.map(({ id, s }) => sampleCard(id, s)))) : null,
    all.filter((r) => r.rollouts.length).map((r) => rolloutTable(r.id, r.rollouts)),
    all.filter((r) => Object.keys(r.options).length).map((r) => optionTable(r.id, r.options)));
}

async function refresh() {
  runs = (await get("/api/runs")).runs;
  for (const entry of chosen.values()) entry.run = runs.find((r) => r.id === entry.run.id) ?? entry.run;
  if (!document.activeElement?.matches(".runs input:not([type])")) drawList(); // a note being written stays
}

export const runsView = {
  async show(main, argument) {
    parts.list = h("div");
    parts.charts = h("div");
    parts.texts = h("div");
    replace(main, h("div", { class: "page" }, h("h1", null, "Runs"), parts.list, parts.charts, parts.texts));
    await refresh();
    const first = runs.find((r) => r.id === argument) ?? runs.find((r) => r.active) ?? runs[0];
    if (!chosen.size && first) choose(first, true);
    else {
      for (const id of chosen.keys()) { chosen.get(id).abort = new AbortController(); follow(id); }
      drawCharts();
      await drawTexts();
    }
    timer = setInterval(() => refresh().catch((e) => notice(e.message)), 10000);
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
