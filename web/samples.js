// What runs wrote at steps of their training: one card for each run and prompt, a slider over the steps.
import { h, replace } from "./dom.js";
import { N_COLOUR } from "./chart.js";

function sampleCard(run, prompt, samples) {
  const text = h("p", { class: "raw" }), at = h("output", null);
  const show = (i) => {
    const s = samples[i];
    at.textContent = `step ${s.step}`;
    slider.setAttribute("aria-valuetext", `step ${s.step}`);
    replace(text, h("strong", null, s.prompt), s.text, s.finish_reason === "length" ? h("span", { class: "soft" }, " …") : null);
  };
  const slider = h("input", { type: "range", min: 0, max: samples.length - 1, value: samples.length - 1, "aria-label": `Step of the sample of ${run.id}`,
                              disabled: samples.length < 2, oninput: () => show(Number(slider.value)) });
  show(samples.length - 1);
  return h("article", { class: "card sample" }, h("header", null, h("h3", null, h("span", { class: "swatch b" + run.colour % N_COLOUR }), ` ${run.id}`), at), slider, text);
}

// runs: [{ id, colour, samples: [{ step, prompt, text, finish_reason }] }]
export function samplesPanel(runs) {
  const cards = runs.flatMap((run) => {
    const prompts = [...new Set(run.samples.map((s) => s.prompt))];
    return prompts.map((prompt) => sampleCard(run, prompt, run.samples.filter((s) => s.prompt === prompt).sort((a, b) => a.step - b.step)));
  });
  return cards.length ? h("section", { "aria-label": "Samples over time" }, h("h2", null, "Samples over time"), h("div", { class: "cards samples" }, cards)) : null;
}
