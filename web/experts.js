// The Experts view: which experts read and wrote each token of a text, in any layer; of two models, side by side.
import { h, replace, field, number, say, notice } from "./dom.js";
import { get, post, refreshModels, modelSelect, ensureLoaded, findModel, loadedModels } from "./api.js";
import { barChart, heatChart } from "./chart.js";
import * as routing from "./routing.js";

const parts = {};
let traces = []; // one, or two to be compared
let layer = 0; // index into the layers of the traces
let only = null; // an expert: the tokens that chose it stand out

// ---- tokens ----

// Neighbouring experts get colours that are far apart.
export function hue(expert) {
  return (expert * 137.508) % 360;
}

// What would be invisible by itself is shown by a sign.
function shownText(text) {
  const shown = text.replace(/\n/g, "⏎\n").replace(/\t/g, "⇥");
  return /^ +$/.test(shown) ? "␣".repeat(shown.length) : shown || "∅";
}

function tokenNode(trace, token, index, explain) {
  const at = token.layers[layer], top = at?.experts[0];
  const about = at ? `, expert ${top}` : ", not read by the model";
  const node = h("span", { class: "token" + (token.prompt ? " prompt" : "") + (at ? "" : " unread") + (only !== null && !at?.experts.includes(only) ? " other" : ""), tabindex: index === 0 ? 0 : -1,
    "data-index": index, style: at ? { "--hue": hue(top).toFixed(0) } : {}, role: "button",
    "aria-label": `${token.text.trim() || "space"}${about}`, onmouseenter: () => explain(trace, token), onfocus: () => explain(trace, token),
    onclick: () => explain(trace, token) }, shownText(token.text));
  return node;
}

// Arrow keys go from token to token; one of them is in the tab order.
function moveFocus(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key], from = event.target.closest(".token");
  if (!by || !from) return;
  const to = from.parentNode.querySelector(`[data-index="${Number(from.dataset.index) + by}"]`);
  if (!to) return;
  event.preventDefault();
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

function explanation(trace, token) {
  const at = token.layers[layer];
  const head = h("p", null, h("strong", null, JSON.stringify(token.text)), ` id ${token.id}`,
                 token.logprob === null || token.logprob === undefined ? null : `, probability ${number(100 * Math.exp(token.logprob))} %`);
  if (!at) return [head, h("p", null, "The last token of an answer: the model wrote it and did not read it.")];
  const most = Math.max(...at.weights, 1e-9);
  return [head, h("table", { class: "weights" }, h("thead", null, h("tr", null, ["expert", "weight"].map((t) => h("th", { scope: "col" }, t)), h("th", { scope: "col" }, h("span", { class: "hidden" }, "share")))),
    h("tbody", null, at.experts.map((e, i) => h("tr", null,
      h("td", null, h("span", { class: "swatch", style: { "--hue": hue(e).toFixed(0) } }), ` ${e}`), h("td", null, number(at.weights[i])),
      h("td", { class: "barcell" }, h("span", { class: "bar", style: { width: (100 * at.weights[i] / most).toFixed(1) + "%", "--hue": hue(e).toFixed(0) } })))))),
    h("p", null, `layer ${trace.layers[layer]}: margin ${number(at.margin)}, entropy ${number(at.entropy)} nats`)];
}

function tokenPanel(trace) {
  // As tall as what will stand there, so that nothing jumps.
  const detail = h("div", { class: "explanation", "aria-live": "polite", style: { "min-height": `${5.8 + 1.75 * Math.min(trace.top_k, 12)}rem` } }, h("p", { class: "soft" }, "Point at a token, or go there with Tab and the arrow keys: its experts appear here."));
  const explain = (t, token) => replace(detail, explanation(t, token));
  const box = h("div", { class: "tokens", onkeydown: moveFocus, role: "group", "aria-label": `Tokens of ${trace.model}` },
                trace.tokens.map((token, i) => tokenNode(trace, token, i, explain)));
  return h("section", { class: "card" }, h("h2", null, trace.model), box, detail);
}

// ---- charts ----

function charts(trace) {
  const usage = trace.usage[layer], total = usage.reduce((a, b) => a + b, 0) || 1;
  const loads = trace.usage.map((row) => { const sum = row.reduce((a, b) => a + b, 0) || 1; return row.map((v) => v * row.length / sum); });
  const together = routing.coactivation(trace, layer), n = trace.n_expert;
  const whose = traces.length > 1 ? `: ${trace.model}` : "";
  const figure = (svg, text) => h("figure", { class: "card" }, svg, h("figcaption", null, text));
  return h("section", { class: "cards four", "aria-label": `Figures of ${trace.model}` },
    figure(barChart({ title: `Usage, layer ${trace.layers[layer]}${whose}`, xLabel: "expert", yLabel: "% of choices", line: 100 / n,
      bars: usage.map((v, e) => ({ name: String(e), value: 100 * v / total, hue: hue(e).toFixed(0) })) }), `The line is an even share, ${number(100 / n)} %.`),
    figure(heatChart({ title: `Load over layers${whose}`, xLabel: "expert", yLabel: "layer", rows: loads, low: 0,
      rowName: (r) => String(trace.layers[r]), columnName: String, high: Math.max(2, ...loads.flat()) }), "Choices of an expert over the mean of its layer."),
    figure(barChart({ title: `Router entropy${whose}`, xLabel: "layer", yLabel: "nats",
      bars: trace.entropy.map((v, l) => ({ name: String(trace.layers[l]), value: v, colour: 2 })) }),
      `Mean over tokens; ${number(Math.log(n))} nats where all experts are equally likely.`),
    trace.top_k > 1 ? figure(heatChart({ title: `Chosen together, layer ${trace.layers[layer]}${whose}`, xLabel: "expert", yLabel: "expert",
      rows: together, rowName: String, columnName: String, low: 0, square: true }), "Tokens for which both experts were chosen.") : null);
}

function comparison() {
  const [a, b] = traces, c = routing.compare(a, b, layer);
  if (!c) return h("section", { class: "card" }, h("p", null, "These two have different experts or layers: they are only shown beside each other."));
  return h("section", { class: "card" }, h("h2", null, "Compared"), h("table", null,
    h("thead", null, h("tr", null, h("th", { scope: "col" }, h("span", { class: "hidden" }, "Measure")), h("th", { scope: "col" }, `layer ${a.layers[layer]}`), h("th", { scope: "col" }, "all layers"))),
    h("tbody", null,
      h("tr", null, h("th", { scope: "row" }, "Tokens of the prompt with the same first expert"), h("td", null, `${number(100 * c.same)} %`), h("td", null, `${number(100 * c.sameAll)} %`)),
      h("tr", null, h("th", { scope: "row" }, "Chosen experts in common"), h("td", null, `${number(100 * c.common)} %`), h("td", null, `${number(100 * c.commonAll)} %`)),
      h("tr", null, h("th", { scope: "row" }, "Usage that differs"), h("td", null, `${number(100 * c.distance)} %`), h("td", null, `${number(100 * c.distanceAll)} %`)))));
}

// ---- the view ----

function draw() {
  if (!traces.length) return;
  const names = traces[0].layers;
  layer = Math.min(layer, names.length - 1);
  const slider = h("input", { type: "range", min: 0, max: names.length - 1, value: layer, "aria-label": "Layer",
    "aria-valuetext": `layer ${names[layer]}`, oninput: () => { layer = Number(slider.value); drawLayer(); } });
  parts.layerName = h("output", null);
  parts.slider = slider;
  const most = Math.max(...traces.map((t) => t.n_expert));
  if (only !== null && only >= most) only = null;
  const select = h("select", { name: "only", "aria-label": "Expert that stands out", onchange: () => { only = select.value === "" ? null : Number(select.value); drawLayer(); } },
    h("option", { value: "" }, "all experts"), Array.from({ length: most }, (_, e) => h("option", { value: e, selected: e === only }, `expert ${e}`)));
  replace(parts.head, h("label", { class: "layer" }, h("span", null, "Layer"), slider, parts.layerName), h("label", { class: "only" }, h("span", null, "Show"), select));
  drawLayer();
}

function goToLayer(to) {
  if (!traces.length || to < 0 || to >= traces[0].layers.length) return;
  layer = to;
  parts.slider.value = layer;
  drawLayer();
  say(`Layer ${traces[0].layers[layer]}`);
}

function drawLayer() {
  parts.layerName.textContent = `${traces[0].layers[layer]} of ${traces[0].layers.at(-1)}`;
  parts.slider.setAttribute("aria-valuetext", `layer ${traces[0].layers[layer]}`);
  const fits = traces.filter((t) => layer < t.layers.length);
  replace(parts.body, h("div", { class: fits.length > 1 ? "beside" : "alone" }, fits.map(tokenPanel)),
          traces.length > 1 ? comparison() : null, fits.map(charts));
}

function show(found) {
  if (!found[0].layers?.length) {
    traces = [];
    replace(parts.head);
    replace(parts.body, h("p", { class: "empty" }, `${found[0].model} has no experts.`));
    return;
  }
  traces = found.filter((t) => t.layers?.length);
  draw();
  say(`${traces[0].tokens.length} tokens, ${traces[0].layers.length} layers`);
}

async function trace(model, form) {
  await ensureLoaded(model);
  const value = (name) => form.elements[name].value;
  const body = { model, max_tokens: Number(value("max_tokens")), temperature: Number(value("temperature")), seed: Number(value("seed")) };
  const text = value("prompt");
  offerTurns(); // it may have been loaded just now
  if (knowsTurns(model) && form.elements.chat.checked) body.messages = [{ role: "user", content: text }];
  else body.prompt = text;
  return post("/api/trace", body);
}

async function submit(event) {
  event.preventDefault();
  const form = event.target, names = [parts.first.value, parts.second.value].filter(Boolean);
  parts.run.disabled = true;
  parts.run.textContent = "Reading …";
  say("Tracing");
  try {
    const found = [];
    for (const name of names) found.push(await trace(name, form));
    show(found);
  } catch (error) {
    notice(error.message);
  }
  parts.run.disabled = false;
  parts.run.textContent = "Show experts";
}

async function openTrace(id) {
  try {
    show([await get("/api/trace/" + encodeURIComponent(id))]);
  } catch (error) {
    notice(error.status === 404 ? "The routing of that answer is not kept any more: ask again." : error.message);
  }
}

const knowsTurns = (id) => { const format = findModel(id)?.chat_format; return Boolean(format) && format !== "none"; };

// Only where a model knows turns.
function offerTurns() {
  parts.turns.hidden = !knowsTurns(parts.first.value) && !knowsTurns(parts.second.value);
}

function build(main) {
  const numeric = (name, value, min, max, step) => h("input", { type: "number", name, value, min, max, step, required: true });
  parts.first = modelSelect("", offerTurns, "Model");
  parts.second = modelSelect("", offerTurns, "Model to compare with", "none");
  parts.turns = h("label", { class: "tick" }, h("input", { type: "checkbox", name: "chat", checked: true }), "as a chat message");
  parts.first.name = "first";
  parts.second.name = "second";
  parts.run = h("button", { class: "primary" }, "Show experts");
  parts.head = h("div", { class: "layerbar" });
  parts.body = h("div");
  replace(main, h("div", { class: "page" }, h("h1", null, "Experts"),
    h("form", { class: "ask", onsubmit: submit },
      field("Text", h("textarea", { name: "prompt", rows: 3, required: true, value: "Once upon a time" })),
      h("div", { class: "row" }, field("Model", parts.first), field("Compare with", parts.second),
        field("Tokens to write", numeric("max_tokens", 40, 0, 4096, 1)), field("Temperature", numeric("temperature", 0, 0, 100, "any")),
        field("Seed", numeric("seed", 1, 0, 9007199254740991, 1)),
        parts.turns, parts.run)),
    parts.head, parts.body));
}

export const experts = {
  keys: [["[  ]", "the layer before, the next one"], ["←  →", "from token to token"]],
  key(event, typing) {
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "[") goToLayer(layer - 1);
    if (event.key === "]") goToLayer(layer + 1);
  },
  async show(main, argument) {
    build(main);
    await refreshModels();
    parts.first.refresh();
    parts.second.refresh();
    offerTurns();
    if (argument) await openTrace(argument);
    else if (traces.length) draw();
    else replace(parts.body, h("p", { class: "empty" }, loadedModels().length
      ? "Write a text above: each of its tokens, and of those the model adds, gets the colour of the expert that weighs most."
      : "No model is loaded: choose one above."));
  },
  async change(argument) { if (argument) await openTrace(argument); },
  hide() {},
};
