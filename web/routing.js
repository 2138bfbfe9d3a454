// Numbers from traces (GET /api/trace/{id}).

// [n_expert][n_expert]: tokens for which both were chosen in a layer.
export function coactivation(trace, layer) {
  const out = Array.from({ length: trace.n_expert }, () => new Array(trace.n_expert).fill(0));
  for (const token of trace.tokens) {
    const chosen = token.layers[layer]?.experts ?? [];
    for (const a of chosen) for (const b of chosen) if (a !== b) out[a][b]++;
  }
  return out;
}

// Half the sum of the differences of shares: 0 when equal, 1 when no expert is used by both.
function distance(a, b) {
  const sum = (row) => row.reduce((x, y) => x + y, 0) || 1;
  const p = sum(a), q = sum(b);
  return a.reduce((total, v, e) => total + Math.abs(v / p - b[e] / q), 0) / 2;
}

// Two traces of one prompt, by the tokens of the prompt that are the same in both.  null when the models' experts
// cannot be compared.
export function compare(a, b, layer) {
  if (a.n_expert !== b.n_expert || a.layers.length !== b.layers.length) return null;
  const prompt = (t) => t.tokens.filter((x) => x.prompt && x.layers.length);
  const x = prompt(a), y = prompt(b);
  let n = 0;
  while (n < x.length && n < y.length && x[n].id === y[n].id) n++;
  const over = (layers, f) => {
    let sum = 0;
    for (const l of layers) for (let i = 0; i < n; i++) sum += f(x[i].layers[l], y[i].layers[l]);
    return n ? sum / (n * layers.length) : NaN;
  };
  const same = (p, q) => (p.experts[0] === q.experts[0] ? 1 : 0);
  const common = (p, q) => p.experts.filter((e) => q.experts.includes(e)).length / p.experts.length;
  const all = a.layers.map((_, i) => i);
  return { same: over([layer], same), sameAll: over(all, same), common: over([layer], common), commonAll: over(all, common),
           distance: distance(a.usage[layer], b.usage[layer]),
           distanceAll: all.reduce((sum, l) => sum + distance(a.usage[l], b.usage[l]), 0) / all.length };
}
