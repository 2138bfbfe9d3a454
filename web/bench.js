// Tokens per second with the KV cache and without.
import { h, dialog, number, replace, field } from "./dom.js";
import { post, ensureLoaded } from "./api.js";
import { barChart } from "./chart.js";

function result(r) {
  const cell = (m) => h("tr", null, h("th", { scope: "row" }, m.kv_cache ? "on" : "off"), h("td", null, number(m.mean)),
                        h("td", null, number(m.median)), h("td", null, m.tokens_per_second.map((v) => number(v)).join(", ")));
  const [on, off] = [true, false].map((k) => r.modes.find((m) => m.kv_cache === k));
  return h("div", null,
    h("p", null, h("span", { class: r.equal ? "badge good" : "badge bad" }, r.equal ? "= outputs are equal" : "≠ outputs differ"),
      ` ${r.model}: ${number(on.mean / off.mean)} times as fast with the cache, ${r.gen_tokens} tokens behind ${r.prompt_tokens}`),
    r.undisturbed ? null : h("p", { class: "warning" }, "Other requests were answered meanwhile: measure again for figures to keep."),
    h("table", null, h("caption", { class: "hidden" }, "Tokens per second"),
      h("thead", null, h("tr", null, ["KV cache", "mean", "median", "single, tokens/s"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", null, r.modes.map(cell))),
    barChart({ title: "Mean tokens per second", bars: r.modes.map((m, i) => ({ name: m.kv_cache ? "cache on" : "cache off", value: m.mean, colour: i })) }));
}

export function benchDialog(model) {
  return dialog("KV cache", (close) => {
    const out = h("div", { "aria-live": "polite" });
    const input = (name, value, max) => h("input", { type: "number", name, value, min: 1, max, required: true });
    const run = h("button", { class: "primary" }, "Measure");
    const form = h("form", { class: "row", onsubmit: async (event) => {
      event.preventDefault();
      const value = (name) => Number(form.elements[name].value);
      run.disabled = true;
      replace(out, h("p", null, "Measuring …"));
      try {
        if (model) await ensureLoaded(model);
        replace(out, result(await post("/api/bench", { model: model || undefined, prompt_tokens: value("prompt"),
                                                       gen_tokens: value("gen"), repeat: value("repeat") })));
      } catch (error) {
        replace(out, h("p", { class: "warning" }, error.message));
      }
      run.disabled = false;
    } }, field("Prompt tokens", input("prompt", 64, 1024)), field("Generated tokens", input("gen", 32, 1024)),
         field("Repeats", input("repeat", 3, 20)), run);
    return h("div", null, form, out);
  });
}
