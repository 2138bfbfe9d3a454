// How answers are made: kept with each conversation, and as the start of the next one.
import { h, field } from "./dom.js";
import { modelSelect, findModel } from "./api.js";

const defaults = { model: "", second: "", system: "", max_tokens: 512, temperature: 0.7, top_p: 0.95, top_k: 0, min_p: 0,
                   repetition_penalty: 1, seed: "", kv_cache: true, trace: true };

export function lastSettings() {
  try {
    return { ...defaults, ...JSON.parse(localStorage.getItem("settings") ?? "{}") };
  } catch {
    return { ...defaults };
  }
}

export const withDefaults = (settings) => ({ ...defaults, ...settings });

// The keys of a request, from settings.
export function sampling(settings) {
  const out = { max_tokens: settings.max_tokens, temperature: settings.temperature, top_p: settings.top_p,
                kv_cache: settings.kv_cache, trace: settings.trace };
  if (settings.top_k > 0) out.top_k = settings.top_k;
  if (settings.min_p > 0) out.min_p = settings.min_p;
  if (settings.repetition_penalty !== 1) out.repetition_penalty = settings.repetition_penalty;
  if (settings.seed !== "") out.seed = settings.seed;
  return out;
}

const numbers = [
  ["max_tokens", "Most tokens", 1, 1e6, 1, "Tokens of an answer at most"],
  ["temperature", "Temperature", 0, 100, 0.05, "0 takes the likeliest token each time"],
  ["top_p", "Top-p", 0.01, 1, 0.01, "Sample among the likeliest tokens that together reach p"],
  ["top_k", "Top-k", 0, 1e6, 1, "Sample among the k likeliest tokens; 0: off"],
  ["min_p", "Min-p", 0, 1, 0.01, "Leave out tokens less likely than this share of the likeliest"],
  ["repetition_penalty", "Repetition", 0.01, 100, 0.05, "Lower the logits of recent tokens by this factor; 1: off"],
];

// The panel; onchange(settings) after each change.
export function settingsPanel(settings, onchange) {
  const change = (name, value) => {
    settings[name] = value;
    localStorage.setItem("settings", JSON.stringify({ ...settings, system: "" }));
    onchange(settings);
  };
  const numberInput = ([name, label, min, max, step, hint]) => {
    const input = h("input", { type: "number", min, max, step: step === 1 ? 1 : "any", value: settings[name], name,
      onchange: () => { if (input.checkValidity() && input.value !== "") change(name, Number(input.value)); else input.reportValidity(); } });
    return field(label, input, hint);
  };
  const seed = h("input", { type: "number", min: 0, step: 1, value: settings.seed, name: "seed", placeholder: "random",
    onchange: () => change("seed", seed.value === "" ? "" : Number(seed.value)) });
  const tick = (name, label, hint) => {
    const input = h("input", { type: "checkbox", name, checked: settings[name], onchange: () => change(name, input.checked) });
    return h("label", { class: "tick", title: hint }, input, label);
  };
  const system = h("textarea", { name: "system", rows: 3, value: settings.system, onchange: () => change("system", system.value),
                                 placeholder: findModel(settings.model)?.default_system || "none" });
  const first = modelSelect(settings.model, (value) => change("model", value), "Model");
  const second = modelSelect(settings.second, (value) => change("second", value), "Second model, answers side by side", "none");
  settings.model ||= first.value;
  first.name = "model";
  second.name = "second";
  const panel = h("div", { class: "settings" }, field("Model", first), field("Beside it", second, "A second model answers too"),
                  field("System prompt", system),
                  h("div", { class: "pairs" }, numbers.map(numberInput), field("Seed", seed, "The same seed gives the same answer")),
                  tick("kv_cache", "KV cache", "Off computes the whole text again for each token: slower, and the same answer"),
                  tick("trace", "Keep routing", "So that the Experts view can show an answer"));
  panel.refresh = () => { first.refresh(); second.refresh(); settings.model ||= first.value; };
  return panel;
}
