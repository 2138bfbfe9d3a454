"""Golden file of sft and dpo on a small model of nano-moe's kind: python make_tuning.py   (see README.md)

In double precision, so that what differs is the other side's rounding alone."""

import numpy as np
import torch
import torch.nn.functional as F

import common
import reference

CONFIG = reference.NANO | dict(
    vocab_size=258, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
    moe_intermediate_size=64,
)  # fmt: skip
# Tokens of prompt, chosen and rejected answer of each pair, their ends included.
PAIRS = [(7, 9, 5), (3, 4, 11), (12, 1, 2), (5, 8, 8), (1, 6, 3)]
BETA = 0.1
TRIES = 40


def make_weights(prefix):
    return {
        name: torch.from_numpy(weight(prefix, name, shape)).double().requires_grad_(True)
        for name, shape in reference.shapes(CONFIG).items()
    }


def weight(prefix, name, shape):
    base, std = common.class_of(name, shape, tied=True)
    return common.formula(prefix + name, shape, base, std)


def sequences(ids):
    """[(tokens, first learned token)] of every pair's two answers."""
    out, at = [], 0
    for p, c, r in PAIRS:
        part = ids[at : at + p + c + r]
        out += [(part[: p + c], p), (torch.cat([part[:p], part[p + c :]]), p)]
        at += p + c + r
    return out


def answer_logp(w, rows):
    """Sum of the log-probabilities of each row's learned tokens, and the router's statistics."""
    inputs, lengths = torch.cat([t[:-1] for t, _ in rows]), [len(t) - 1 for t, _ in rows]
    logits, stats = reference.forward(w, CONFIG, inputs, lengths, training=True)
    sums = [
        F.log_softmax(y[p - 1 :], -1).gather(1, t[p:, None]).sum() for y, (t, p) in zip(logits.split(lengths), rows)
    ]
    return torch.stack(sums), stats


def auxiliary(stats):
    n = CONFIG["num_hidden_layers"]
    return CONFIG["balance_coef"] * sum(stats["balance"]) / n + CONFIG["z_coef"] * sum(stats["z"]) / n


def choose_ids():
    w, best = make_weights(""), (-1.0, None)
    for attempt in range(TRIES):
        ids = common.make_ids(f"tuning.{attempt}", sum(map(sum, PAIRS)), CONFIG["vocab_size"])
        with torch.no_grad():
            margin = min(answer_logp(w, sequences(ids))[1]["margin"])
        if margin > best[0]:
            best = (margin, ids)
    return best


def gradients(label, w, loss):
    loss.backward()
    entries = common.describe_grads({name: (t, None) for name, t in w.items()}, full=False)
    return {f"{label}.{k}": v for k, v in entries.items()}


def main():
    margin, ids = choose_ids()
    rows = sequences(ids)
    tensors = {"ids": ids.numpy().astype(np.int32), "pairs": np.array(PAIRS, dtype=np.int32)}

    w = make_weights("")
    logp, stats = answer_logp(w, rows[0::2])
    sft = -logp.sum() / sum(c for _, c, _ in PAIRS)
    tensors["sft.loss"] = np.array([sft.item()])
    tensors |= gradients("sft", w, sft + auxiliary(stats))

    with torch.no_grad():
        ref = answer_logp(make_weights("ref."), rows)[0]
    for label in ["sigmoid", "ipo"]:
        w = make_weights("")
        logp, stats = answer_logp(w, rows)
        reward = BETA * (logp - ref)
        m = reward[0::2] - reward[1::2]
        loss = (-F.logsigmoid(m) if label == "sigmoid" else (m / BETA - 1 / (2 * BETA)) ** 2).mean()
        tensors[label + ".loss"] = np.array([loss.item()])
        tensors["margin"] = m.detach().numpy()
        tensors |= gradients(label, w, loss + auxiliary(stats))

    facts = {"routing_margin": margin, "beta": BETA, "made_by": f"torch {torch.__version__}, fp64, reference.py"}
    common.write("tuning", tensors, CONFIG, facts)
    print({k: v for k, v in tensors.items() if k.endswith("loss") or k == "margin"})


if __name__ == "__main__":
    main()
