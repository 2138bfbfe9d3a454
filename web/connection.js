// Whether the server answers.  When it does not, a bar says so until it does again.
import { h, say } from "./dom.js";

const AGAIN_SECONDS = 2;
let bar = null;

async function answers() {
  try {
    await fetch("/health", { signal: AbortSignal.timeout(5000) });
    return true;
  } catch {
    return false;
  }
}

async function wait() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * AGAIN_SECONDS));
    if (await answers()) break;
  }
  bar.remove();
  bar = null;
  say("The server answers again");
  dispatchEvent(new Event("reconnected"));
}

export const isLost = () => Boolean(bar);

// Called when a request got no answer at all.
export function lost() {
  if (bar) return;
  bar = h("div", { class: "lost", role: "alert" }, "The server does not answer. Is it still running? This page tries again by itself.");
  document.getElementById("top").after(bar);
  wait();
}
