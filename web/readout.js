// Reading values from a line chart: a rule that follows the pointer, or the arrow keys while the chart has the focus, and
// what the lines are at there.
import { h, s, replace, number, say } from "./dom.js";
import { lineChart, N_COLOUR } from "./chart.js";

// All places of the lines, each once, ascending.
function places(lines) {
  return [...new Set(lines.flatMap((l) => l.x.filter(Number.isFinite)))].sort((a, b) => a - b);
}

function nearest(sorted, x) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle;
    else high = middle;
  }
  return x - sorted[low] <= sorted[high] - x ? low : high;
}

// Each line's value at x, or where it has been last: a run that ended earlier has none.
function valuesAt(lines, x) {
  return lines.map((l) => {
    let best = -1;
    for (let i = 0; i < l.x.length; i++) {
      if (Number.isFinite(l.y[i]) && (best < 0 || Math.abs(l.x[i] - x) < Math.abs(l.x[best] - x))) best = i;
    }
    const last = Math.max(...l.x.filter(Number.isFinite)), first = Math.min(...l.x.filter(Number.isFinite));
    return best < 0 || x > last || x < first ? null : { line: l, x: l.x[best], y: l.y[best] };
  }).filter(Boolean);
}

// A <figure> whose update(options of lineChart) draws it anew and leaves the focus and the rule where they are.
export function lineFigure() {
  const tip = h("div", { class: "readout", hidden: true });
  const figure = h("figure", { class: "card plot" });
  let svg = null, at = null; // the x that is read, null: none

  function show(x, aloud) {
    const { scale } = svg;
    svg.querySelectorAll(".rule").forEach((n) => n.remove());
    at = x;
    tip.hidden = x === null;
    if (x === null) return;
    const found = valuesAt(scale.lines, x), X = scale.X(x).toFixed(1);
    svg.append(s("path", { class: "rule", d: `M${X} ${scale.top}V${scale.bottom}` }),
               ...found.map((v) => s("circle", { class: `rule f${v.line.colour % N_COLOUR}`, cx: scale.X(v.x).toFixed(1),
                                                 cy: Math.max(scale.top, Math.min(scale.bottom, scale.Y(v.y))).toFixed(1), r: 4 })));
    const where = `${figure.xName} ${number(x, 4)}`;
    replace(tip, h("div", null, where), found.map((v) => h("div", null, h("span", { class: "swatch b" + v.line.colour % N_COLOUR }), ` ${v.line.name} `, h("strong", null, number(v.y, 4)))));
    const share = scale.X(x) / scale.width;
    tip.style.setProperty("left", share < 0.55 ? `calc(${(100 * share).toFixed(1)}% + 0.6rem)` : "auto");
    tip.style.setProperty("right", share < 0.55 ? "auto" : `calc(${(100 - 100 * share).toFixed(1)}% + 0.6rem)`);
    if (aloud) say(`${where}: ${found.map((v) => `${v.line.name} ${number(v.y, 4)}`).join(", ")}`);
  }

  function follow(event) {
    const box = svg.getBoundingClientRect(), { scale } = svg, all = places(scale.lines);
    const share = (event.clientX - box.left) / box.width * scale.width;
    if (share < scale.left - 8 || share > scale.right + 8 || !all.length) return show(null);
    show(all[nearest(all, scale.x0 + (share - scale.left) / (scale.right - scale.left) * (scale.x1 - scale.x0))]);
  }

  figure.addEventListener("pointermove", follow);
  figure.addEventListener("pointerdown", follow);
  figure.addEventListener("pointerleave", () => { if (figure !== document.activeElement) show(null); });
  figure.addEventListener("blur", () => show(null));
  figure.addEventListener("keydown", (event) => {
    const all = places(svg.scale.lines), i = at === null ? -1 : nearest(all, at), stride = event.shiftKey ? Math.max(1, Math.round(all.length / 20)) : 1;
    const to = { ArrowRight: Math.min(all.length - 1, i + stride), ArrowLeft: i < 0 ? all.length - 1 : Math.max(0, i - stride), Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") show(null);
    if (to === undefined || !all.length) return;
    event.preventDefault();
    show(all[to], true);
  });
  figure.tabIndex = 0;
  figure.setAttribute("role", "group");
  figure.update = (options) => {
    const fresh = lineChart(options);
    figure.xName = options.xLabel;
    figure.setAttribute("aria-label", `${options.title}: arrow keys read values`);
    if (svg) svg.replaceWith(fresh);
    else figure.append(fresh, tip);
    svg = fresh;
    if (at !== null) show(at);
    return figure;
  };
  return figure;
}
