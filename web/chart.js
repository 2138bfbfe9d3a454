// Charts as SVG nodes: lines, bars and heat maps, in the colours of the style sheet (classes s0.. for strokes, f0.. for
// fills).
import { s, number } from "./dom.js";

const WIDTH = 440, HEIGHT = 264, LEFT = 58, RIGHT = 16, TOP = 34, BOTTOM = 44, FEW = 30, TENTHS = 40;
export const N_COLOUR = 10;

// 1, 2 or 5 times a power of ten that cuts the range into at most n parts.
export function tickStep(range, n) {
  const power = 10 ** Math.floor(Math.log10(range / n));
  for (const m of [1, 2, 5]) if (range / (power * m) <= n * (1 + 1e-9)) return power * m;
  return power * 10;
}

function ticks(low, high, n) {
  const step = tickStep(high - low, n), out = [];
  const first = Math.ceil(low / step - 1e-9);
  for (let k = 0; k < 64 && (first + k) * step <= high + step * 1e-9; k++) out.push((first + k) * step);
  const decimals = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
  const name = (v) => step >= 1e6 ? v / 1e6 + "M" : step >= 1e3 ? v / 1e3 + "k" : step < 1e-4 ? v.toPrecision(2) : v.toFixed(decimals);
  return out.map((v) => [v, v === 0 ? "0" : name(v)]);
}

function frame(title, xLabel, yLabel, height = HEIGHT) {
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "chart", role: "img", "aria-label": title });
  const bottom = height - BOTTOM;
  svg.append(s("text", { x: 2, y: 18, class: "title" }, title),
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

const drawable = (v) => typeof v === "number" && Math.abs(v) < 1e150; // differences of larger ones may be infinite
const shown = (l, i) => drawable(l.x[i]) && drawable(l.y[i]);

// What of a line decides the height of the frame.  With clipStart a long line's first tenth does not: it may lie above.
function decisive(l, clipStart) {
  const at = l.x.map((_, i) => i).filter((i) => shown(l, i));
  const skip = clipStart && at.length >= TENTHS ? Math.floor(at.length / 10) : 0;
  return at.slice(skip).map((i) => l.y[i]);
}

function limits(lines, fromZero, clipStart) {
  let values = lines.flatMap((l) => decisive(l, clipStart));
  if (fromZero) { // the highest hundredth may lie above
    values.sort((a, b) => a - b);
    values = [0, (values[Math.floor((values.length - 1) * 0.99)] ?? 1) * 1.1];
  }
  const [y0, y1] = range(values);
  return fromZero ? [y0, y1] : [y0 - (y1 - y0) * 0.05, y1 + (y1 - y0) * 0.05];
}

// Dots where there are few, so that a line's ends and single values are seen.
function drawLine(l, X, Y) {
  const colour = l.colour % N_COLOUR, at = l.x.map((_, i) => i).filter((i) => shown(l, i));
  const d = at.map((i) => `${i > 0 && shown(l, i - 1) ? "L" : "M"}${X(l.x[i]).toFixed(1)} ${Y(l.y[i]).toFixed(1)}`).join("");
  return [s("path", { class: `${l.faint ? "faint" : "line"} s${colour}`, d, "stroke-dasharray": l.colour >= N_COLOUR ? "6 4" : null }),
          ...(at.length <= FEW && !l.faint ? at.map((i) => s("circle", { class: "f" + colour, cx: X(l.x[i]).toFixed(1), cy: Y(l.y[i]).toFixed(1), r: 2.8 })) : [])];
}

function summary(lines) {
  return lines.filter((l) => !l.faint).map((l) => {
    const y = l.y.filter((_, i) => shown(l, i));
    return `${l.name}: from ${number(y[0])} to ${number(y.at(-1))}, lowest ${number(range(y)[0])}, highest ${number(Math.max(...y))}`;
  }).join("; ");
}

// lines: [{ name, colour, x: [..], y: [..], faint }]; values that are null or not finite break a line.  The node's `scale`
// says where what lies: { X, x0, x1, lines, top, bottom }.
export function lineChart({ title, xLabel, yLabel, lines, fromZero, clipStart }) {
  const svg = frame(title, xLabel, yLabel), bottom = HEIGHT - BOTTOM, right = WIDTH - RIGHT;
  svg.setAttribute("aria-description", summary(lines));
  let [x0, x1] = range(lines.flatMap((l) => l.x.filter((_, i) => shown(l, i))));
  if (lines.every((l) => l.x.filter((_, i) => shown(l, i)).length < 2)) [x0, x1] = [x0 - 0.5 * (x1 - x0), x0 + 0.5 * (x1 - x0)];
  const [y0, y1] = limits(lines, fromZero, clipStart);
  const X = (v) => LEFT + (v - x0) / (x1 - x0) * (right - LEFT), Y = (v) => bottom - (v - y0) / (y1 - y0) * (bottom - TOP);
  for (const [v, name] of ticks(x0, x1, 6)) {
    svg.append(s("path", { class: "grid", d: `M${X(v).toFixed(1)} ${TOP}V${bottom}` }),
               s("text", { x: X(v).toFixed(1), y: bottom + 17, class: "mid" }, name));
  }
  for (const [v, name] of ticks(y0, y1, 6)) {
    svg.append(s("path", { class: "grid", d: `M${LEFT} ${Y(v).toFixed(1)}H${right}` }),
               s("text", { x: LEFT - 6, y: (Y(v) + 4).toFixed(1), class: "end" }, name));
  }
  const inner = s("svg", { x: LEFT - 4, y: TOP - 2, width: right - LEFT + 8, height: bottom - TOP + 4,
                           viewBox: `${LEFT - 4} ${TOP - 2} ${right - LEFT + 8} ${bottom - TOP + 4}` });
  inner.append(...lines.flatMap((l) => drawLine(l, X, Y)));
  svg.append(inner);
  svg.scale = { X, Y, x0, x1, lines: lines.filter((l) => !l.faint), top: TOP, bottom, left: LEFT, right, width: WIDTH };
  return svg;
}

// bars: [{ name, value, colour or hue }], side by side; `line`: a value to compare them with.
export function barChart({ title, xLabel, yLabel, bars, line, height = 220 }) {
  const svg = frame(title, xLabel, yLabel, height), bottom = height - BOTTOM, right = WIDTH - RIGHT;
  const high = Math.max(1e-9, line ?? 0, ...bars.map((b) => b.value)) * 1.04;
  const Y = (v) => bottom - v / high * (bottom - TOP);
  for (const [v, name] of ticks(0, high, 4)) {
    svg.append(s("path", { class: "grid", d: `M${LEFT} ${Y(v).toFixed(1)}H${right}` }),
               s("text", { x: LEFT - 6, y: (Y(v) + 4).toFixed(1), class: "end" }, name));
  }
  const room = (right - LEFT) / bars.length, longest = Math.max(...bars.map((b) => b.name.length));
  const every = Math.ceil((longest * 8 + 6) / room);
  bars.forEach((b, i) => {
    const x = LEFT + room * (i + 0.1);
    svg.append(s("rect", { class: b.hue === undefined ? "f" + (b.colour ?? 0) % N_COLOUR : "hued", style: b.hue === undefined ? null : { "--hue": b.hue }, x: x.toFixed(1), y: Y(b.value).toFixed(1),
                           width: Math.max(0.5, room * 0.8).toFixed(1), height: (bottom - Y(b.value)).toFixed(1) },
                 s("title", null, `${b.name}: ${Number(b.value.toPrecision(4))}`)));
    if (i % every === 0) svg.append(s("text", { x: (LEFT + room * (i + 0.5)).toFixed(1), y: bottom + 17, class: "mid" }, b.name));
  });
  if (line !== undefined) svg.append(s("path", { class: "even", d: `M${LEFT} ${Y(line).toFixed(1)}H${right}` }));
  const sorted = [...bars].sort((a, b) => b.value - a.value);
  svg.setAttribute("aria-description", "Highest: " + sorted.slice(0, 3).map((b) => `${b.name} with ${number(b.value)}`).join(", "));
  return svg;
}

// rows of numbers; deeper is more.  names of rows and columns are functions of their index.
export function heatChart({ title, xLabel, yLabel, rows, rowName, columnName, low, high, square }) {
  const n = rows[0]?.length ?? 0;
  const height = TOP + BOTTOM + Math.max(70, Math.min(square ? WIDTH - LEFT - RIGHT - 46 : 300, rows.length * (square ? 34 : 20)));
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
  const cells = rows.flatMap((row, r) => row.map((value, c) => ({ value, at: `${yLabel} ${rowName(r)}, ${xLabel} ${columnName(c)}` })))
    .filter((cell) => Number.isFinite(cell.value)).sort((a, b) => b.value - a.value);
  const said = (cell) => `${number(cell.value)} at ${cell.at}`;
  if (cells.length) svg.setAttribute("aria-description", `Highest: ${cells.slice(0, 3).map(said).join("; ")}. Lowest: ${said(cells.at(-1))}`);
  svg.append(s("text", { x: right + 22, y: TOP + 10 }, Number(to.toPrecision(3))),
             s("text", { x: right + 22, y: bottom }, Number(from.toPrecision(3))));
  return svg;
}
