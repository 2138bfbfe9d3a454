// The page: which view is shown, dark or light, keys.
import { h, notice, dialog } from "./dom.js";
import { chat } from "./chat.js";
import { experts } from "./experts.js";
import { runsView as runs } from "./runs.js";

const views = { chat, experts, runs };
const main = document.getElementById("main");
let shown = null;

async function route() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  if (name === "talk" && rest.length) { // to a model, in a new conversation
    chat.talkTo(decodeURIComponent(rest.join("/")));
    history.replaceState(null, "", "#chat");
    return route();
  }
  const view = views[name] ? name : "chat", argument = rest.length ? decodeURIComponent(rest.join("/")) : null;
  for (const link of document.querySelectorAll("#top nav a")) {
    if (link.hash === "#" + view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = { chat: "Chat", experts: "Experts", runs: "Runs" }[view] + " · Moonlight";
  try {
    if (shown === view) return await views[view].change(argument);
    if (shown) views[shown].hide();
    shown = view;
    document.body.dataset.view = view;
    await views[view].show(main, argument);
  } catch (error) {
    notice(error.message);
  }
}

function theme(value) {
  if (value) document.documentElement.dataset.theme = value;
  localStorage.setItem("theme", value);
}

document.getElementById("theme").addEventListener("click", () => {
  const dark = (document.documentElement.dataset.theme ??
                (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  theme(dark ? "light" : "dark");
});
if (localStorage.getItem("theme")) theme(localStorage.getItem("theme"));
addEventListener("hashchange", route);

// ---- keys ----

const everywhere = [["?", "this list"], ["1  2  3", "Chat, Experts, Runs"], ["t", "dark or light"], ["Tab", "from control to control"]];

function showKeys() {
  const table = (title, keys) => [h("h3", null, title), h("table", { class: "shortcuts" }, h("tbody", null, keys.map(([key, what]) =>
    h("tr", null, h("th", { scope: "row" }, key.split("  ").map((k) => h("kbd", null, k))), h("td", null, what)))))];
  return dialog("Keys", () => h("div", null, table("Everywhere", everywhere), table("Chat", chat.keys), table("Experts", experts.keys), table("Runs", runs.keys)));
}

function onKey(event) {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const view = { 1: "chat", 2: "experts", 3: "runs" }[event.key];
    if (view) location.hash = view;
    else if (event.key === "?") showKeys();
    else if (event.key === "t") document.getElementById("theme").click();
    else views[shown]?.key?.(event, false);
    return;
  }
  views[shown]?.key?.(event, Boolean(typing));
}

document.getElementById("keys").addEventListener("click", showKeys);
addEventListener("keydown", onKey);
addEventListener("unhandledrejection", (event) => notice(event.reason?.message ?? String(event.reason)));
route();
