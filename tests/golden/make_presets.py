"""Golden files of nano-moe and moonlight-moe-130m: python make_presets.py [label ...]   (see README.md)

In double precision, so that what differs is the other side's rounding alone."""

import sys

import numpy as np
import torch

import common
import reference

LENGTHS = {"nano_moe": [64, 64], "moonlight_moe_130m": [48, 48]}
TRIES = {"nano_moe": 10, "moonlight_moe_130m": 2}
N_POSITION = 16
# The 130M model at its own initial scale (variance 0.1 / fan_in) and a gentle rate: at variance 1 / fan_in PyTorch's own
# fp32 gradients are 4e-4 away from fp64, and steps of 1e-3 make routing flip on rounding.
SCALE = {"nano_moe": 1.0, "moonlight_moe_130m": 0.1**0.5}
LR = {"nano_moe": 1e-3, "moonlight_moe_130m": 1e-4}


def make_weights(c, label):
    return {
        name: common.make_weight(name, shape, tied=True, scale=SCALE[label]).double().requires_grad_(True)
        for name, shape in reference.shapes(c).items()
    }


def choose_ids(w, c, label, lengths):
    best = (-1.0, None)
    for attempt in range(TRIES[label]):
        ids = common.make_ids(f"{label}.{attempt}", sum(lengths), c["vocab_size"])
        with torch.no_grad():
            margin = min(reference.forward(w, c, ids, lengths, training=True)[1]["margin"])
        if margin > best[0]:
            best = (margin, ids)
    return best


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


def make(label):
    c, lengths = reference.PRESETS[label], LENGTHS[label]
    w = make_weights(c, label)
    margin, ids = choose_ids(w, c, label, lengths)
    tensors = {"ids": ids.numpy().astype(np.int32), "seq": np.cumsum([0] + lengths).astype(np.int32)}
    with torch.no_grad():
        tensors |= describe_logits("", reference.forward(w, c, ids, lengths, training=False)[0])
    parts, logits, stats = reference.losses(w, c, ids, lengths)
    parts["total"].backward()
    tensors |= describe_logits("train_", logits)
    tensors |= {"loss_" + k: np.array([v.item()]) for k, v in parts.items()}
    tensors["dropped"] = np.array(stats["dropped"], dtype=np.int32)
    tensors |= common.describe_grads({name: (t, None) for name, t in w.items()}, full=False)
    for name in ["adamw", "muon"]:
        del w
        w = make_weights(c, label)
        params = {k: (t, None) for k, t in w.items()}
        tensors[name + "_losses"] = common.train(
            name, params, lambda: reference.losses(w, c, ids, lengths)[0]["total"], lr=LR[label]
        )
        print(name, tensors[name + "_losses"], flush=True)
    facts = {
        "routing_margin": margin,
        "logits_std": logits.std().item(),
        "made_by": f"torch {torch.__version__}, fp64, reference.py",
    }
    common.write(label, tensors, c, facts)
    print("   ", {k: v.item() for k, v in parts.items()}, "dropped", stats["dropped"])


if __name__ == "__main__":
    torch.set_num_threads(2)
    for name in sys.argv[1:] or reference.PRESETS:
        make(name)
