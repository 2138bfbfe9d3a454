"""Golden files of nano-moe and moonlight-moe-130m: python make_presets.py [label ...]   (see README.md)

In double precision, so that what differs is the other side's rounding alone."""

import sys

import numpy as np
import torch

import common
import reference

LENGTHS = {"nano_moe": [64, 64], "moonlight_moe_130m": [48, 48]}
TRIES = {"nano_moe": 10, "moonlight_moe_130m": 4}
N_POSITION = 16


def make_weights(c):
    return {
        name: common.make_weight(name, shape, tied=True).double().requires_grad_(True)
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
    w = make_weights(c)
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
        w = make_weights(c)
        params = {k: (t, None) for k, t in w.items()}
        tensors[name + "_losses"] = common.train(
            name, params, lambda: reference.losses(w, c, ids, lengths)[0]["total"]
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
