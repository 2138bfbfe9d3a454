// Highlighting of code: comments, strings, numbers and keywords, as <span> nodes.
import { h } from "./dom.js";

const words = (text) => new Set(text.split(" "));
const c = words("auto bool break case char class const constexpr continue default delete do double else enum extern false " +
  "float for goto if inline int long namespace new nullptr NULL operator private public return short signed sizeof static " +
  "struct switch template this true typedef typename union unsigned using virtual void volatile while");
const js = words("async await break case catch class const continue default delete do else export extends false finally for " +
  "from function if import in instanceof interface let new null of return static super switch this throw true try type " +
  "typeof undefined var void while yield");
const python = words("and as assert async await break class continue def del elif else except False finally for from global " +
  "if import in is lambda None nonlocal not or pass raise return self True try while with yield");
const shell = words("case cd do done echo elif else esac exit export fi for function if in local return set shift then while");
const rust = words("as async await break const continue else enum false fn for if impl in let loop match mod move mut pub ref " +
  "return self Self static struct super trait true type unsafe use where while");
const go = words("break case chan const continue default defer else false for func go if import interface map nil package range " +
  "return select struct switch true type var");
const java = words("abstract boolean break byte case catch char class continue default do double else enum extends false final " +
  "finally float for if implements import int interface long new null package private protected public return short static " +
  "super switch this throw throws true try var void while");
const sql = words("ALL AND AS ASC BY CASE CREATE DELETE DESC DISTINCT ELSE END FROM GROUP HAVING IN INNER INSERT INTO IS JOIN " +
  "LEFT LIKE LIMIT NOT NULL ON OR ORDER OUTER PRIMARY SELECT SET TABLE THEN UNION UPDATE VALUES WHEN WHERE WITH");

const slash = String.raw`\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`, hash = String.raw`#[^\n]*`;
const language = {
  c: [c, slash], cpp: [c, slash], cuda: [c, slash], js: [js, slash], javascript: [js, slash], ts: [js, slash],
  typescript: [js, slash], python: [python, hash], py: [python, hash], sh: [shell, hash], bash: [shell, hash],
  shell: [shell, hash], rust: [rust, slash], go: [go, slash], java: [java, slash], json: [words("true false null"), "(?!)"],
  sql: [sql, "--[^\\n]*"], yaml: [words("true false null"), hash], toml: [words("true false"), hash],
};

const string = String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|` + "`(?:\\\\.|[^`\\\\])*`?";

// Text and nodes in turn.
export function highlight(text, name) {
  const found = language[name.toLowerCase()];
  if (!found) return [text];
  const [keywords, comment] = found;
  const pattern = new RegExp(`(${comment})|(${string})|(\\b\\d[\\w.]*)|([A-Za-z_]\\w*)`, "g");
  const out = [];
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    const kind = match[1] !== undefined ? "comment" : match[2] !== undefined ? "string" : match[3] !== undefined ? "number"
      : keywords.has(match[4]) || (keywords === sql && keywords.has(match[4].toUpperCase())) ? "keyword" : null;
    if (!kind) continue;
    out.push(text.slice(at, match.index), h("span", { class: "hl-" + kind }, match[0]));
    at = match.index + match[0].length;
  }
  out.push(text.slice(at));
  return out;
}
