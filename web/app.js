// The page: which view is shown, dark or light, keys.
import { notice } from "./dom.js";
import { chat } from "./chat.js";
import { experts } from "./experts.js";
import { runsView as runs } from "./runs.js";

const views = { chat, experts, runs };
const main = document.getElementById("main");
let shown = null;

async function route() {
  const [name, ...rest] = location.hash.slice(1).split("/");
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
addEventListener("keydown", (event) => views[shown]?.key?.(event));
addEventListener("unhandledrejection", (event) => notice(event.reason?.message ?? String(event.reason)));
route();
