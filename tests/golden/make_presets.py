"""Golden files of nano-moe and moonlight-moe-130m: python make_presets.py [label ...]   (see README.md)

In double precision, so that what differs is the other side's rounding alone.

A choice of experts, a place within an expert's capacity and the slope of a ReLU are discontinuous: where two scores or
a ReLU's argument lie within fp32 rounding of the threshold, right programs differ by far more than rounding, and no bar
can tell them from wrong ones.  So the ids are searched for.  For moonlight-moe-130m the first set is taken for which
nothing that is compared comes so near, and for which PyTorch's own fp32 run meets the bars with room.  nano-moe has no
capacity and no ReLU; there PyTorch's fp32 leaves fp64 by 1e-5 at AdamW's second loss whatever the ids, so it cannot
judge them: of ten sets the one with the widest margin between experts is taken, and ours is held to fp64 all the same."""

import sys

import numpy as np
import torch

import common
import reference

LENGTHS = {"nano_moe": [64, 64], "moonlight_moe_130m": [4, 8, 12]}
TRIES = {"nano_moe": 10}
N_POSITION = 16
N_STEP = 10
# The 130M model at its own initial scale (variance 0.1 / fan_in): at 1 / fan_in PyTorch's own fp32 gradients are 4e-4
# away from fp64.
SCALE = {"nano_moe": 1.0, "moonlight_moe_130m": 0.1**0.5}
# AdamW's first steps are lr * sign(g) almost everywhere: what rounding does to the sign of a gradient near zero comes
# back multiplied by lr.  At 1e-4 the 130M model's fp32 run leaves the fp64 one by 4e-3 within seven steps.
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


def find_widest_ids(c, label, lengths):
    best = (-1.0, None)
    for attempt in range(TRIES[label]):
        ids = common.make_ids(f"{label}.{attempt}", sum(lengths), c["vocab_size"])
        with torch.no_grad():
            margin = reference.forward(make_weights(c, label), c, ids, lengths, training=True)[1]["margin"].min().item()
        best = max(best, (margin, ids), key=lambda x: x[0])
    return best[1]


def search_ids(c, label, lengths):
    """Endless: batches that are clear in the first step.  Sequences that are not are drawn again; which tokens exceed a
    capacity depends on the others, so the batch is looked at as a whole each time."""
    n_drawn = 0
    while True:
        w = make_weights(c, label)
        parts, again = [None] * len(lengths), range(len(lengths))
        while again:
            for i in again:
                parts[i] = common.make_ids(f"{label}.{n_drawn}", lengths[i], c["vocab_size"])
                n_drawn += 1
            again = find_unclear(w, c, torch.cat(parts), lengths)
        del w  # the 130M model in fp64 is a gigabyte
        print(f"{label}: {n_drawn} sequences drawn", flush=True)
        yield torch.cat(parts)


def backward(w, c, ids, lengths):
    for t in w.values():
        t.grad = None
    parts, logits, stats = reference.losses(w, c, ids, lengths)
    parts["total"].backward()
    return {k: v.item() for k, v in parts.items()}, logits, stats


def describe_first(c, label, ids, lengths, facts):
    """Entries of the golden file for the batch at the first weights; in facts, how far fp32 is from its gradients."""
    w = make_weights(c, label)
    with torch.no_grad():
        entries = describe_logits("", reference.forward(w, c, ids, lengths, training=False)[0])
    parts, logits, stats = backward(w, c, ids, lengths)
    entries |= describe_logits("train_", logits) | {"loss_" + k: np.array([v]) for k, v in parts.items()}
    entries["dropped"] = np.array(stats["dropped"], dtype=np.int32)
    entries |= common.describe_grads({name: (t, None) for name, t in w.items()}, full=False)
    rounded = make_weights(c, label, torch.float32)
    backward(rounded, c, ids, lengths)
    facts["logits_std"] = logits.std().item()
    facts["routing_margin"], facts["kink_margin"] = (stats[k].min().item() for k in ["margin", "kink"])
    facts["fp32_gradient_error"] = max(
        ((t.grad - rounded[name].grad).abs().max() / t.grad.abs().max()).item()
        for name, t in w.items()
        if t.grad is not None and t.grad.any()
    )
    print(f" gradients: fp32 {facts['fp32_gradient_error']:.1e} of the largest element off", flush=True)
    return entries


def train(c, label, name, dtype, ids, lengths):
    """[(loss, statistics)] of the ten steps."""
    w, steps = make_weights(c, label, dtype), []
    opt = common.Optimizer(name, {k: (t, None) for k, t in w.items()}, lr=LR[label])
    for _ in range(N_STEP):
        parts, _logits, stats = backward(w, c, ids, lengths)
        steps.append((parts["total"], stats))
        opt.step()
    return steps


def compare_steps(exact, rounded, facts):
    """Whether right programs must agree in every step, as far as two of them, in fp64 and fp32, can say."""
    for (loss, a), (fp32_loss, b) in zip(exact, rounded):
        loss_error, margin = abs(loss - fp32_loss), a["margin"].min().item()
        score_error = max((x - y).abs().max().item() for x, y in zip(a["score"], b["score"]))
        same = all(torch.equal(x, y) for x, y in zip(a["choice"], b["choice"]))
        n_relu = sum((x != y).sum().item() for x, y in zip(a["active"], b["active"])) if same else 0
        print(
            f"  loss {loss:.8f}, fp32 {loss_error:.1e} off; margin {margin:.1e}, {margin / score_error:.0f} times the "
            f"error of a score; " + (f"{n_relu} ReLUs differ" if same else "choices differ"),
            flush=True,
        )
        facts["margin_over_error"] = min(facts.get("margin_over_error", np.inf), margin / score_error)
        facts["fp32_loss_error"] = max(facts.get("fp32_loss_error", 0.0), loss_error)
        if not same or facts["margin_over_error"] < LEAST_MARGIN_OVER_ERROR:
            return False
        if facts["fp32_loss_error"] > MOST_LOSS_ERROR:
            return False
    return True


def describe(c, label, ids, lengths):
    """Entries and facts of the golden file, or None when these ids cannot be held to the bars."""
    judged = label not in TRIES
    facts = {"lr": LR[label], "made_by": f"torch {torch.__version__}, fp64, reference.py"}
    entries = {"ids": ids.numpy().astype(np.int32), "seq": np.cumsum([0] + lengths).astype(np.int32)}
    entries |= describe_first(c, label, ids, lengths, facts)
    if judged and facts["fp32_gradient_error"] > MOST_GRADIENT_ERROR:
        return None
    for name in ["adamw", "muon"]:
        print(f" {name}", flush=True)
        exact = train(c, label, name, torch.float64, ids, lengths)
        if judged and not compare_steps(exact, train(c, label, name, torch.float32, ids, lengths), facts):
            return None
        entries[name + "_losses"] = np.array([loss for loss, _stats in exact])
    return entries, facts


def make(label):
    c, lengths = reference.PRESETS[label], LENGTHS[label]
    for ids in [find_widest_ids(c, label, lengths)] if label in TRIES else search_ids(c, label, lengths):
        found = describe(c, label, ids, lengths)
        if found:
            common.write(label, found[0], c, found[1])
            return


if __name__ == "__main__":
    torch.set_num_threads(2)
    for name in sys.argv[1:] or reference.PRESETS:
        make(name)
