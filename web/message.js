// How messages look.
import { h, number, copyButton } from "./dom.js";
import { markdown } from "./markdown.js";
import * as tree from "./tree.js";

const ends = { length: "cut at the longest length", stopped: "stopped", error: "failed" };

function button(label, onclick, title) {
  return h("button", { type: "button", class: "small", onclick, title }, label);
}

// "‹ 2 of 3 ›" where a message has alternatives.
function branches(conversation, message, go) {
  const all = tree.siblings(conversation, message);
  if (!go || all.length < 2) return null;
  const at = all.findIndex((m) => m.id === message.id);
  const step = (by, sign, label) => h("button", { type: "button", class: "small", "aria-label": label, disabled: !all[at + by],
                                                  onclick: () => go(all[at + by]) }, sign);
  return h("span", { class: "branches" }, step(-1, "‹", "Alternative before"), ` ${at + 1} of ${all.length} `,
           step(1, "›", "Next alternative"));
}

function reasoning(text) {
  return text ? h("details", { class: "reasoning" }, h("summary", null, "Thoughts"), h("div", { class: "text" }, markdown(text))) : null;
}

function speed(meta) {
  const parts = [];
  if (meta.tokens) parts.push(`${meta.tokens} tokens`);
  if (meta.tokens_per_second) parts.push(`${number(meta.tokens_per_second)} tokens/s`);
  if (meta.cached_tokens) parts.push(`${meta.cached_tokens} of ${meta.prompt_tokens} prompt tokens reused`);
  if (ends[meta.finish]) parts.push(ends[meta.finish]);
  return parts.join(" · ");
}

// What the check of the cache said.
export function cacheBadge(meta) {
  if (meta.kv_cache === undefined) return null;
  const mode = h("span", { class: "badge" }, meta.kv_cache === false ? "KV cache off" : "KV cache on");
  if (!meta.check) return mode;
  const { equal, tokens_per_second, kv_cache } = meta.check;
  const text = `${equal ? "= equal" : "≠ differs"} with cache ${kv_cache ? "on" : "off"} (${number(tokens_per_second)} tokens/s)`;
  return [mode, h("span", { class: equal ? "badge good" : "badge bad" }, text)];
}

// An answer of the past.  act: { regenerate, check, experts, go, choose }
export function assistantMessage(conversation, message, act, chosen = true) {
  const meta = message.meta ?? {};
  const checkable = meta.seed !== undefined && meta.tokens && meta.finish !== "stopped" && meta.finish !== "error" && !meta.check;
  return h("article", { class: "message assistant" + (chosen ? "" : " aside"), "data-id": message.id },
    h("header", null, h("h2", { class: "who" }, message.model ?? "Assistant"), branches(conversation, message, act.go)),
    reasoning(meta.reasoning),
    h("div", { class: "text" }, markdown(message.content)),
    h("footer", null, h("span", { class: "figures" }, speed(meta)), cacheBadge(meta), message.unsaved ? h("span", { class: "badge bad" }, "not stored") : null,
      h("span", { class: "actions" },
        chosen ? null : button("Go on with this", () => act.choose(message)),
        button("Again", () => act.regenerate(message), "Another answer beside this one"),
        checkable ? button("Check cache", (e) => act.check(message, e.currentTarget),
                           "Answer once more with the cache the other way, and compare") : null,
        meta.trace_id ? button("Experts", () => act.experts(message), "Which experts wrote this") : null,
        message.unsaved ? button("Store it", () => act.store(message)) : null,
        copyButton(message.content, { class: "small" }))));
}

export function userMessage(conversation, message, act) {
  return h("article", { class: "message user", "data-id": message.id },
    h("header", null, h("h2", { class: "who" }, "You"), branches(conversation, message, act.go)),
    h("div", { class: "text raw" }, message.content),
    h("footer", null, h("span", { class: "actions" }, button("Edit", () => act.edit(message), "Change it; the former one is kept"),
                        copyButton(message.content, { class: "small" }))));
}

// A place for an answer that is being made; show(answer) fills it, at most once a frame.
export function liveMessage(model) {
  const text = h("div", { class: "text" }), thoughts = h("div"), figures = h("span", { class: "figures" }, "waiting …");
  const node = h("article", { class: "message assistant live", "aria-busy": "true" },
                 h("header", null, h("h2", { class: "who" }, model)), thoughts, text, h("footer", null, figures));
  let pending = null;
  node.show = (answer) => {
    if (!pending) requestAnimationFrame(() => { const a = pending; pending = null; draw(a); });
    pending = answer;
  };
  const draw = (answer) => {
    text.replaceChildren(...markdown(answer.content).filter(Boolean));
    if (answer.reasoning && !answer.content) thoughts.replaceChildren(h("div", { class: "reasoning text" }, markdown(answer.reasoning)));
    else thoughts.replaceChildren(...[reasoning(answer.reasoning)].filter(Boolean));
    const seconds = (performance.now() - answer.started) / 1000;
    if (answer.tokens > 1) figures.textContent = `${answer.tokens} tokens · ${number(answer.tokens / seconds)} tokens/s`;
    node.dispatchEvent(new Event("grow", { bubbles: true }));
  };
  return node;
}
