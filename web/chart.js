// Charts as SVG nodes: lines, bars and heat maps, in the colours of the style sheet (classes s0.. for strokes, f0.. for
// fills).
import { s } from "./dom.js";

const WIDTH = 520, HEIGHT = 300, LEFT = 62, RIGHT = 18, TOP = 34, BOTTOM = 46;
export const N_COLOUR = 10;

// 1, 2 or 5 times a power of ten that cuts the range into at most n parts.
export function tickStep(range, n) {
  const power = 10 ** Math.floor(Math.log10(range / n));
  for (const m of [1, 2, 5]) if (range / (power * m) <= n * (1 + 1e-9)) return power * m;
  return power * 10;
}

function ticks(low, high, n) {
  const step = tickStep(high - low, n), out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) out.push(k * step);
  const decimals = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
  const name = (v) => step >= 1e6 ? v / 1e6 + "M" : step >= 1e3 ? v / 1e3 + "k" : step < 1e-4 ? v.toPrecision(2) : v.toFixed(decimals);
  return out.map((v) => [v, v === 0 ? "0" : name(v)]);
}

function frame(title, xLabel, yLabel, height = HEIGHT) {
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "chart", role: "img", "aria-label": title });
  const bottom = height - BOTTOM;
  svg.append(s("text", { x: 12, y: 20, class: "title" }, title),
             s("path", { class: "axis", d: `M${LEFT} ${TOP}V${bottom}H${WIDTH - RIGHT}` }));
  if (xLabel) svg.append(s("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: height - 8, class: "mid" }, xLabel));
  if (yLabel) svg.append(s("text", { transform: `translate(14 ${(TOP + bottom) / 2}) rotate(-90)`, class: "mid" }, yLabel));
  return svg;
}

function range(values, fallback = [0, 1]) {
  let low = Infinity, high = -Infinity;
  for (const v of values) {
    if (v < low) low = v;
    if (v > high) high = v;
  }
  if (!(high >= low)) return fallback;
  return high > low ? [low, high] : [low, low + (Math.abs(low) || 1)];
}

// lines: [{ name, colour, x: [..], y: [..], faint }]; values that are null or not finite break a line.
export function lineChart({ title, xLabel, yLabel, lines, fromZero, clipStart }) {
  const svg = frame(title, xLabel, yLabel), bottom = HEIGHT - BOTTOM, right = WIDTH - RIGHT;
  const shown = (l, i) => Number.isFinite(l.x[i]) && Number.isFinite(l.y[i]);
  const [x0, x1] = range(lines.flatMap((l) => l.x.filter((_, i) => shown(l, i))));
  const begin = clipStart ? x0 + (x1 - x0) / 10 : -Infinity; // what only the beginning reaches may lie above the frame
  let values = lines.flatMap((l) => l.y.filter((_, i) => shown(l, i) && l.x[i] >= begin));
  if (fromZero) { // and so may the highest hundredth
    values.sort((a, b) => a - b);
    values = [0, (values[Math.floor((values.length - 1) * 0.99)] ?? 1) * 1.1];
  }
  let [y0, y1] = range(values);
  if (!fromZero) [y0, y1] = [y0 - (y1 - y0) * 0.04, y1 + (y1 - y0) * 0.04];
  const X = (v) => LEFT + (v - x0) / (x1 - x0) * (right - LEFT), Y = (v) => bottom - (v - y0) / (y1 - y0) * (bottom - TOP);
  for (const [v, name] of ticks(x0, x1, 6)) {
    svg.append(s("path", { class: "grid", d: `M${X(v).toFixed(1)} ${TOP}V${bottom}` }),
               s("text", { x: X(v).toFixed(1), y: bottom + 17, class: "mid" }, name));
  }
  for (const [v, name] of ticks(y0, y1, 6)) {
    svg.append(s("path", { class: "grid", d: `M${LEFT} ${Y(v).toFixed(1)}H${right}` }),
               s("text", { x: LEFT - 6, y: (Y(v) + 4).toFixed(1), class: "end" }, name));
  }
  const inner = s("svg", { x: LEFT, y: TOP - 2, width: right - LEFT, height: bottom - TOP + 4,
                           viewBox: `${LEFT} ${TOP - 2} ${right - LEFT} ${bottom - TOP + 4}` });
  for (const l of lines) {
    let d = "", down = false, n = 0;
    l.x.forEach((x, i) => {
      if (shown(l, i)) {
        d += `${down ? "L" : "M"}${X(x).toFixed(1)} ${Y(l.y[i]).toFixed(1)}`;
        n++;
      }
      down = shown(l, i);
    });
    inner.append(s("path", { class: `${l.faint ? "faint" : "line"} s${l.colour % N_COLOUR}`, d,
                             "stroke-dasharray": l.colour >= N_COLOUR ? "6 4" : null }));
    if (n === 1) {
      const i = l.x.findIndex((_, k) => shown(l, k));
      inner.append(s("circle", { class: `f${l.colour % N_COLOUR}`, cx: X(l.x[i]).toFixed(1), cy: Y(l.y[i]).toFixed(1), r: 3.5 }));
    }
  }
  svg.append(inner);
  return svg;
}

// bars: [{ name, value, colour }], side by side.
export function barChart({ title, xLabel, yLabel, bars, height = 220 }) {
  const svg = frame(title, xLabel, yLabel, height), bottom = height - BOTTOM, right = WIDTH - RIGHT;
  const high = Math.max(1e-9, ...bars.map((b) => b.value));
  const Y = (v) => bottom - v / high * (bottom - TOP);
  for (const [v, name] of ticks(0, high, 4)) {
    svg.append(s("path", { class: "grid", d: `M${LEFT} ${Y(v).toFixed(1)}H${right}` }),
               s("text", { x: LEFT - 6, y: (Y(v) + 4).toFixed(1), class: "end" }, name));
  }
  const room = (right - LEFT) / bars.length, longest = Math.max(...bars.map((b) => b.name.length));
  const every = Math.ceil((longest * 8 + 6) / room);
  bars.forEach((b, i) => {
    const x = LEFT + room * (i + 0.1);
    svg.append(s("rect", { class: "f" + (b.colour ?? 0) % N_COLOUR, x: x.toFixed(1), y: Y(b.value).toFixed(1),
                           width: Math.max(0.5, room * 0.8).toFixed(1), height: (bottom - Y(b.value)).toFixed(1) },
                 s("title", null, `${b.name}: ${Number(b.value.toPrecision(4))}`)));
    if (i % every === 0) svg.append(s("text", { x: (LEFT + room * (i + 0.5)).toFixed(1), y: bottom + 17, class: "mid" }, b.name));
  });
  return svg;
}

// rows of numbers; deeper is more.  names of rows and columns are functions of their index.
export function heatChart({ title, xLabel, yLabel, rows, rowName, columnName, low, high, square }) {
  const n = rows[0]?.length ?? 0;
  const height = square ? WIDTH - 60 : Math.max(160, Math.min(420, 90 + rows.length * 22));
  const svg = frame(title, xLabel, yLabel, height), bottom = height - BOTTOM, right = WIDTH - RIGHT - 46;
  const [least, most] = range(rows.flat());
  const from = low ?? least, to = Math.max(high ?? most, from + 1e-9);
  const shade = (v) => (0.06 + 0.89 * Math.min(1, Math.max(0, (v - from) / (to - from)))).toFixed(3);
  const wide = (right - LEFT) / n, tall = (bottom - TOP) / rows.length;
  const rowEvery = Math.ceil(13 / tall), columnEvery = Math.ceil((8 * String(columnName(n - 1)).length + 8) / wide);
  rows.forEach((row, r) => {
    row.forEach((value, c) => {
      if (!Number.isFinite(value)) return;
      svg.append(s("rect", { class: "f0", "fill-opacity": shade(value), x: (LEFT + wide * c).toFixed(2),
                             y: (TOP + tall * r).toFixed(2), width: (wide > 4 ? wide - 1 : wide).toFixed(2),
                             height: (tall > 4 ? tall - 1 : tall).toFixed(2) },
                   s("title", null, `${rowName(r)}, ${columnName(c)}: ${Number(value.toPrecision(4))}`)));
    });
    if (r % rowEvery === 0) svg.append(s("text", { x: LEFT - 6, y: (TOP + tall * (r + 0.5) + 4).toFixed(1), class: "end" }, rowName(r)));
  });
  for (let c = 0; c < n; c += columnEvery) {
    svg.append(s("text", { x: (LEFT + wide * (c + 0.5)).toFixed(1), y: bottom + 17, class: "mid" }, columnName(c)));
  }
  for (let i = 0; i < 8; i++) {
    svg.append(s("rect", { class: "f0", "fill-opacity": shade(to - (to - from) * i / 7), x: right + 8,
                           y: (TOP + (bottom - TOP) / 8 * i).toFixed(1), width: 10, height: ((bottom - TOP) / 8).toFixed(1) }));
  }
  svg.append(s("text", { x: right + 22, y: TOP + 10 }, Number(to.toPrecision(3))),
             s("text", { x: right + 22, y: bottom }, Number(from.toPrecision(3))));
  return svg;
}
