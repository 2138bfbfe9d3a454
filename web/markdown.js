// Markdown as DOM nodes.  The distribution's marked finds the structure; what it takes for HTML stays text, links lead
// only to http, https and mailto, and images are links: a model cannot make the page load anything.
import { h, copyButton } from "./dom.js";
import { highlight } from "./code.js";
import "./lib/marked.js"; // puts itself there: globalThis.marked

// marked escapes what it hands out as text.
const entity = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'" };
const plain = (text) => text.replace(/&(?:amp|lt|gt|quot|#39);/g, (e) => entity[e]);

function link(href, title, children) {
  let url;
  try {
    url = new URL(href, "invalid://");
  } catch {
    url = null;
  }
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return h("span", null, children);
  return h("a", { href: url.href, title, rel: "noopener noreferrer nofollow", target: "_blank" }, children);
}

const inline = {
  text: (t) => (t.tokens ? inlines(t.tokens) : plain(t.text)),
  escape: (t) => plain(t.text),
  strong: (t) => h("strong", null, inlines(t.tokens)),
  em: (t) => h("em", null, inlines(t.tokens)),
  del: (t) => h("del", null, inlines(t.tokens)),
  codespan: (t) => h("code", null, plain(t.text)),
  br: () => h("br"),
  link: (t) => link(plain(t.href), t.title ? plain(t.title) : null, inlines(t.tokens)),
  image: (t) => link(plain(t.href), t.title ? plain(t.title) : null, "[" + plain(t.text) + "]"),
};

function inlines(tokens) {
  return (tokens ?? []).map((t) => inline[t.type]?.(t) ?? t.raw);
}

function codeBlock(t) {
  const text = t.text, copy = copyButton(text, { class: "copy", "aria-label": "Copy the code" });
  return h("div", { class: "code" }, h("div", { class: "codehead" }, h("span", null, t.lang || "text"), copy),
           h("pre", { tabindex: 0 }, h("code", null, highlight(text, (t.lang || "").split(/\s/)[0]))));
}

function listItem(item) {
  const box = item.task ? h("input", { type: "checkbox", disabled: true, checked: item.checked }) : null;
  return h("li", null, box, blocks(item.tokens, !item.loose));
}

function table(t) {
  const cell = (tag) => (c, i) => h(tag, { class: t.align[i] ? "to-" + t.align[i] : null }, inlines(c.tokens));
  return h("div", { class: "scroll" }, h("table", null, h("thead", null, h("tr", null, t.header.map(cell("th")))),
           h("tbody", null, t.rows.map((row) => h("tr", null, row.map(cell("td")))))));
}

const block = {
  space: () => null,
  heading: (t) => h("h" + Math.min(6, t.depth + 2), null, inlines(t.tokens)),
  paragraph: (t) => h("p", null, inlines(t.tokens)),
  code: codeBlock,
  blockquote: (t) => h("blockquote", null, blocks(t.tokens)),
  list: (t) => h(t.ordered ? "ol" : "ul", { start: t.ordered && t.start > 1 ? t.start : null }, t.items.map(listItem)),
  hr: () => h("hr"),
  table,
  def: () => null,
};

function blocks(tokens, tight) {
  return tokens.map((t) => {
    if (t.type === "text") return tight ? inline.text(t) : h("p", null, inline.text(t));
    return block[t.type] ? block[t.type](t) : h("p", null, t.raw);
  });
}

// Nodes for a text.  What marked cannot take is shown as it is.
export function markdown(text) {
  try {
    return blocks(globalThis.marked.lexer(text, { gfm: true }), false);
  } catch {
    return [h("p", { class: "raw" }, text)];
  }
}
