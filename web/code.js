// Colours in code: the distribution's highlight.js says what each piece is; its marks become <span> nodes here, and a
// text that does not come back as it was given stays plain.
import { h } from "./dom.js";
import "./lib/highlight.js"; // puts itself there: globalThis.hljs

const MOST_CHARACTERS = 50000;
const entity = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&#39;": "'" };
const plain = (text) => text.replace(/&(?:amp|lt|gt|quot|#x27|#39);/g, (e) => entity[e]);

// Spans and text, and nothing else, as nodes.
function nodes(marked) {
  const root = h("span"), open = [root];
  for (const piece of marked.match(/<span class="[\w\s.-]*">|<\/span>|[^<]+|</g) ?? []) {
    if (piece === "</span>") {
      if (open.length > 1) open.pop();
    } else if (piece.startsWith("<span")) {
      const inner = h("span", { class: piece.slice(13, -2) });
      open.at(-1).append(inner);
      open.push(inner);
    } else {
      open.at(-1).append(plain(piece));
    }
  }
  return root;
}

const known = new Map(); // the last texts: while an answer grows, its earlier blocks stay as they are

// A list of nodes and texts.
export function highlight(text, name) {
  const language = name.toLowerCase();
  if (!language || text.length > MOST_CHARACTERS || !globalThis.hljs.getLanguage(language)) return [text];
  const key = language + "\n" + text;
  if (!known.has(key)) {
    const root = nodes(globalThis.hljs.highlight(language, text, true).value);
    if (known.size >= 200) known.delete(known.keys().next().value);
    known.set(key, root.textContent === text ? root : null);
  }
  const root = known.get(key);
  return root ? [...root.cloneNode(true).childNodes] : [text];
}
