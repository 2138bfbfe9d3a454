// The rollouts of a run: a table with search, order and pages, asked of the server.
import { h, replace, number, field, notice, dialog } from "./dom.js";
import { get } from "./api.js";

const PAGE = 12;

function reward(value) {
  if (value === null) return "–";
  return h("span", { class: "badge " + (value > 0 ? "good" : "bad") }, number(value));
}

// The whole record of one.
function showRecord(run, r) {
  return dialog(`${run}: ${r.file}, line ${r.line + 1}`, () => h("div", { class: "record" },
    h("h3", null, "Prompt"), h("p", { class: "raw" }, r.prompt || "–"), h("h3", null, "Answer"), h("p", { class: "raw" }, r.text || "–"),
    h("h3", null, "Record"), h("table", null, h("tbody", null, Object.entries(r.record).filter(([k]) => k !== "prompt" && k !== "text")
      .map(([k, v]) => h("tr", null, h("th", { scope: "row" }, k), h("td", { class: "raw" }, typeof v === "object" ? JSON.stringify(v) : String(v))))))));
}

function table(run, rollouts) {
  const cut = (text) => (text.length > 280 ? text.slice(0, 280) + " …" : text);
  return h("table", { class: "rollouts" }, h("thead", null, h("tr", null, ["step", "prompt", "answer", "reward", ""].map((t) =>
      h("th", { scope: "col" }, t || h("span", { class: "hidden" }, "All of it"))))),
    h("tbody", null, rollouts.map((r) => h("tr", null, h("td", null, r.step ?? "–"), h("td", { class: "raw" }, cut(r.prompt)), h("td", { class: "raw" }, cut(r.text)),
      h("td", null, reward(r.reward)), h("td", null, h("button", { type: "button", class: "small", onclick: () => showRecord(run, r) }, "All"))))));
}

// { node, refresh }: the node is empty while the run has none; refresh() asks again, for the same page of the same search.
export function rolloutsPanel(run) {
  const state = { file: "", search: "", order: "newest", offset: 0 };
  let answer = { files: [], rollouts: [], total: 0 };
  const ask = () => {
    const query = new URLSearchParams({ order: state.order, offset: state.offset, limit: PAGE });
    if (state.file) query.set("file", state.file);
    if (state.search) query.set("search", state.search);
    return get(`/api/runs/${encodeURIComponent(run)}/rollouts?${query}`);
  };
  const body = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Rollouts of ${run}` }), pages = h("div", { class: "pages" });
  const mean = (f) => (f.mean_reward === null ? "" : `, mean reward ${number(f.mean_reward)}`);
  const file = h("select", { onchange: () => change({ file: file.value }) });
  const order = h("select", { onchange: () => change({ order: order.value }) }, ["newest", "oldest", "best", "worst"].map((o) => h("option", { value: o }, o)));
  const search = h("input", { type: "search", placeholder: "in prompts and answers", maxlength: 200, oninput: () => change({ search: search.value.trim() }) });
  const node = h("div"), section = h("section", { class: "rolloutpanel", "data-run": run }, h("h2", null, `Rollouts: ${run}`),
    h("div", { class: "row" }, field("File", file), field("Order", order), field("Search", search)), body, pages);
  const draw = () => {
    const { files, rollouts, total } = answer;
    if (!files.length) section.remove();
    else if (!section.parentNode) node.append(section);
    replace(file, h("option", { value: "" }, "all"), files.map((f) => h("option", { value: f.file, selected: f.file === state.file }, `${f.file} (${f.n}${mean(f)})`)));
    replace(body, rollouts.length ? table(run, rollouts) : h("p", { class: "empty" }, "None has that in its prompt or answer."));
    const step = (by, text) => h("button", { type: "button", class: "small", disabled: by < 0 ? state.offset === 0 : state.offset + PAGE >= total,
      onclick: () => change({ offset: state.offset + by }) }, text);
    replace(pages, step(-PAGE, "Before"), h("span", { "aria-live": "polite" }, total ? `${state.offset + 1} to ${Math.min(total, state.offset + PAGE)} of ${total}` : "none"), step(PAGE, "Next"));
  };
  let newest = 0; // an answer that was overtaken by another question is dropped
  async function change(what) {
    Object.assign(state, { offset: 0 }, what);
    const mine = ++newest;
    try {
      const found = await ask();
      if (mine !== newest) return;
      answer = found;
      draw();
    } catch (error) {
      if (error.status) notice(error.message);
    }
  }
  // While somebody is at the table, it stays; what has not changed is not drawn again.
  async function refresh() {
    const mine = newest;
    try {
      const found = await ask();
      if (mine !== newest || JSON.stringify(found) === JSON.stringify(answer) || [body, pages, file].some((part) => part.contains(document.activeElement))) return;
      answer = found;
      draw();
    } catch { /* the next time */ }
  }
  change({});
  return { node, refresh };
}
