"""Golden files of nano-moe and moonlight-moe-130m: python make_presets.py [label ...]   (see README.md)

In double precision, so that what differs is the other side's rounding alone.

A choice of experts, a place within an expert's capacity and the slope of a ReLU are discontinuous: where two scores or
a ReLU's argument lie within fp32 rounding of the threshold, right programs differ by far more than rounding, and no bar
can tell them from wrong ones.  So the ids are searched for: the first set for which nothing that is compared comes so
near is taken, and PyTorch's own fp32 run of the same batch must meet the bars with room."""

import sys

import numpy as np
import torch

import common
import reference

LENGTHS = {"nano_moe": [64, 64], "moonlight_moe_130m": [4, 8, 12]}
N_POSITION = 16
N_STEP = 10
# The 130M model at its own initial scale (variance 0.1 / fan_in): at 1 / fan_in PyTorch's own fp32 gradients are 4e-4
# away from fp64.
SCALE = {"nano_moe": 1.0, "moonlight_moe_130m": 0.1**0.5}
# AdamW's first steps are lr * sign(g) almost everywhere: what rounding does to the sign of a gradient near zero comes
# back multiplied by lr.  At 1e-4 the 130M model's fp32 run leaves the fp64 one by 1e-3 within seven steps.
LR = {"nano_moe": 1e-3, "moonlight_moe_130m": 1e-5}

# What is demanded of the ids.  fp32 errors of a ReLU's argument are 2.4e-7 rms (2e-6 the largest of two million) here;
# the bars of the test are 1e-4 for gradients and 1e-5 for losses.
LEAST_KINK = 2e-6  # in the batch whose gradients are compared
LEAST_MARGIN = 1e-5  # there, and ...
LEAST_MARGIN_OVER_ERROR = 10.0  # ... in each of the twenty steps, over the largest difference of a score in fp32
MOST_GRADIENT_ERROR = 1e-5  # of PyTorch's fp32, relative to the largest element of the tensor
MOST_LOSS_ERROR = 4e-6  # of PyTorch's fp32, in each of the twenty steps


def make_weights(c, label, dtype=torch.float64):
    return {
        name: common.make_weight(name, shape, tied=True, scale=SCALE[label]).to(dtype).requires_grad_(True)
        for name, shape in reference.shapes(c).items()
    }


def describe_logits(prefix, logits):
    logits = logits.detach().numpy()
    position = (np.arange(N_POSITION) * len(logits)) // N_POSITION
    vocab = (np.arange(common.N_SAMPLE) * logits.shape[1]) // common.N_SAMPLE
    lse = torch.from_numpy(logits[position]).logsumexp(-1).numpy()
    return {
        prefix + "logits": logits[position][:, vocab].astype(np.float32),
        prefix + "lse": lse.astype(np.float32),
        "position": position.astype(np.int32),
        "vocab": vocab.astype(np.int32),
    }


def same_choices(a, b):
    return all(torch.equal(x, y) for x, y in zip(a["choice"], b["choice"]))


def find_unclear(w, c, ids, lengths):
    """Sequences with something discontinuous near its threshold, in training or in inference, which has no capacity."""
    unclear = torch.zeros(len(ids), dtype=torch.bool)
    for training in [True, False]:
        with torch.no_grad():
            stats = reference.forward(w, c, ids, lengths, training)[1]
        unclear |= stats["margin"] < LEAST_MARGIN
        if training:
            unclear |= stats["kink"] < LEAST_KINK
    return [i for i, part in enumerate(unclear.split(lengths)) if part.any()]


def search_ids(w, c, label, lengths):
    """Endless: batches that are clear in the first step.  Sequences that are not are drawn again; which tokens exceed a
    capacity depends on the others, so the batch is looked at as a whole each time."""
    n_drawn = 0
    while True:
        parts, again = [None] * len(lengths), range(len(lengths))
        while again:
            for i in again:
                parts[i] = common.make_ids(f"{label}.{n_drawn}", lengths[i], c["vocab_size"])
                n_drawn += 1
            again = find_unclear(w, c, torch.cat(parts), lengths)
        print(f"{label}: {n_drawn} sequences drawn", flush=True)
        yield torch.cat(parts)


class Run:
    """A model and its optimizer in one precision."""

    def __init__(self, c, label, name, dtype):
        self.c, self.w = c, make_weights(c, label, dtype)
        self.opt = common.Optimizer(name, {k: (t, None) for k, t in self.w.items()}, lr=LR[label])

    def backward(self, ids, lengths):
        for t in self.w.values():
            t.grad = None
        parts, self.logits, self.stats = reference.losses(self.w, self.c, ids, lengths)
        parts["total"].backward()
        self.parts = {k: v.item() for k, v in parts.items()}


def gradient_error(exact, rounded):
    """Largest over the tensors, of the largest difference over the largest element."""
    worst = 0.0
    for name, t in exact.w.items():
        if t.grad is not None and t.grad.any():
            worst = max(worst, ((t.grad - rounded.w[name].grad).abs().max() / t.grad.abs().max()).item())
    return worst


def compare_step(exact, rounded):
    error = max((a - b).abs().max().item() for a, b in zip(exact.stats["score"], rounded.stats["score"]))
    loss, margin = exact.parts["total"], exact.stats["margin"].min().item()
    ratio = margin / error
    loss_error = abs(loss - rounded.parts["total"])
    flips = -1
    if same_choices(exact.stats, rounded.stats):
        flips = sum((a != b).sum().item() for a, b in zip(exact.stats["active"], rounded.stats["active"]))
    print(
        f"  loss {loss:.8f}, fp32 {loss_error:.1e} off; margin {margin:.1e}, {ratio:.0f} times the error of a score; "
        + ("choices differ" if flips < 0 else f"{flips} ReLUs differ"),
        flush=True,
    )
    return ratio, loss_error, flips >= 0 and ratio >= LEAST_MARGIN_OVER_ERROR and loss_error <= MOST_LOSS_ERROR


def train_twins(c, label, name, ids, lengths, facts):
    """Ten steps in fp64 and in fp32 side by side: the fp64 losses and the run after its first backward pass, or None
    when the fp32 run says that these ids cannot be compared to the bars."""
    exact, rounded = (Run(c, label, name, dtype) for dtype in [torch.float64, torch.float32])
    losses, first = [], None
    for step in range(N_STEP):
        exact.backward(ids, lengths)
        rounded.backward(ids, lengths)
        ratio, loss_error, fits = compare_step(exact, rounded)
        if step == 0:
            facts["fp32_gradient_error"] = gradient_error(exact, rounded)
            facts["routing_margin"], facts["kink_margin"] = (
                exact.stats[k].min().item() for k in ["margin", "kink"]
            )
            fits = fits and facts["fp32_gradient_error"] <= MOST_GRADIENT_ERROR
            first = describe_first(exact)
        if not fits:
            return None
        facts["margin_over_error"] = min(facts.get("margin_over_error", np.inf), ratio)
        facts["fp32_loss_error"] = max(facts.get("fp32_loss_error", 0.0), loss_error)
        losses.append(exact.parts["total"])
        exact.opt.step()
        rounded.opt.step()
    return np.array(losses, dtype=np.float64), first


def describe_first(run):
    """Entries of the golden file for the batch at the first weights, backward pass done."""
    entries = describe_logits("train_", run.logits) | {"loss_" + k: np.array([v]) for k, v in run.parts.items()}
    entries["dropped"] = np.array(run.stats["dropped"], dtype=np.int32)
    return entries | common.describe_grads({name: (t, None) for name, t in run.w.items()}, full=False)


def make(label):
    c, lengths = reference.PRESETS[label], LENGTHS[label]
    w = make_weights(c, label)
    for ids in search_ids(w, c, label, lengths):
        facts = {"lr": LR[label]}
        tensors = {"ids": ids.numpy().astype(np.int32), "seq": np.cumsum([0] + lengths).astype(np.int32)}
        with torch.no_grad():
            tensors |= describe_logits("", reference.forward(w, c, ids, lengths, training=False)[0])
        for name in ["adamw", "muon"]:
            print(f" {name}", flush=True)
            result = train_twins(c, label, name, ids, lengths, facts)
            if result is None:
                break
            tensors |= {name + "_losses": result[0]} | result[1]
        else:
            break
    facts["logits_std"] = tensors["train_logits"].std().item()
    facts["made_by"] = f"torch {torch.__version__}, fp64, reference.py"
    common.write(label, tensors, c, facts)


if __name__ == "__main__":
    torch.set_num_threads(2)
    for name in sys.argv[1:] or reference.PRESETS:
        make(name)
