"""What the generators share: weights by formula, the two optimizers, and the file format (see README.md)."""

import json
import math
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent
N_SAMPLE = 64
MASK = (1 << 64) - 1


def fnv1a64(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def splitmix64(x):
    """One output of splitmix64 whose state was x; x is an array of uint64, arithmetic modulo 2^64."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def formula(name, shape, base, std):
    """value[i] = base + scale * (2 r - 1), in float32; r = 24 random bits / 2^24."""
    n = int(np.prod(shape))
    u = splitmix64(np.uint64(fnv1a64(name)) + np.arange(n, dtype=np.uint64))
    r = (u >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    t = np.float32(2.0) * r - np.float32(1.0)
    scale = np.float32(std * math.sqrt(3.0))
    return (np.float32(base) + scale * t).reshape(shape)


def class_of(name, shape, tied):
    """(base, std) by the kind of tensor."""
    if name.endswith("e_score_correction_bias"):
        return 0.0, 0.01
    if name.endswith("bias"):
        return 0.0, 0.1
    if len(shape) == 1:
        return 1.0, 0.1
    if name == "model.embed_tokens.weight" and not tied:
        return 0.0, 1.0
    return 0.0, 1.0 / math.sqrt(shape[-1])


def make_weight(name, shape, tied, scale=1.0):
    """`scale` multiplies the standard deviation of matrices."""
    base, std = class_of(name, shape, tied)
    return torch.from_numpy(formula(name, shape, base, std * scale if len(shape) > 1 else std))


def make_ids(label, n, vocab):
    """n token ids from the same generator, under the name ids.<label>."""
    u = splitmix64(np.uint64(fnv1a64("ids." + label)) + np.arange(n, dtype=np.uint64))
    return torch.from_numpy(((u >> np.uint64(11)) % np.uint64(vocab)).astype(np.int64))


def kind_of(name):
    """The optimizer's view of a tensor: matrix (Muon, under that optimizer) or other."""
    if name.endswith("norm.weight") or name.endswith("bias"):
        return "other"
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return "other"
    return "matrix"


def newton_schulz(u, steps=5):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = u.mT if u.size(0) > u.size(1) else u
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if u.size(0) > u.size(1) else x


class Optimizer:
    """AdamW, or Muon with AdamW for the rest; parameters are {name: (tensor, index or None)} of single matrices."""

    def __init__(self, name, params, lr=1e-3, wd=0.1):
        self.name, self.params, self.lr, self.wd, self.t = name, params, lr, wd, 0
        self.m = {k: torch.zeros_like(get(p)) for k, p in params.items()}
        self.v = {k: torch.zeros_like(get(p)) for k, p in params.items() if not self.uses_muon(k)}

    def uses_muon(self, name):
        return self.name == "muon" and kind_of(name) == "matrix"

    @torch.no_grad()
    def step(self):
        self.t += 1
        for name, p in self.params.items():
            w, g = get(p), get_grad(p)
            m = self.m[name]
            w.mul_(1 - self.lr * self.wd)
            if self.uses_muon(name):
                m.mul_(0.95).add_(g)
                u = (g + 0.95 * m).float()  # fp32 also in fp64 models: its error is 1e-6 of an update of size lr
                w.sub_(self.lr * 0.2 * math.sqrt(max(w.shape)) * newton_schulz(u).to(w.dtype))
            else:
                v = self.v[name]
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.95).add_(0.05 * g * g)
                update = (m / (1 - 0.9**self.t)) / ((v / (1 - 0.95**self.t)).sqrt() + 1e-8)
                w.sub_(self.lr * update)


# A parameter is a slice of a stored tensor, because transformers stacks experts in one: (tensor, slices).
def get(p):
    tensor, at = p
    return tensor.data[at] if at is not None else tensor.data


def get_grad(p):
    tensor, at = p
    grad = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
    return grad[at] if at is not None else grad


def train(name, params, compute_loss, steps=10, lr=1e-3):
    """Losses before each of `steps` steps on one and the same batch."""
    opt, losses = Optimizer(name, params, lr=lr), []
    for _ in range(steps):
        for tensor, _at in params.values():
            tensor.grad = None
        loss = compute_loss()
        loss.backward()
        losses.append(loss.item())
        opt.step()
    return np.array(losses, dtype=np.float64)


def stack_experts(grads):
    """{...experts.3.up_proj.weight: g} -> {...experts.*.up_proj.weight: [n_expert, rows, cols]}; others unchanged."""
    out = {}
    for name, g in grads.items():
        out.setdefault(re.sub(r"experts\.\d+\.", "experts.*.", name), []).append((int((re.findall(r"experts\.(\d+)\.", name) or [-1])[0]), g))
    return {k: np.stack([g for _i, g in sorted(v, key=lambda x: x[0])]) if "*" in k else v[0][1] for k, v in out.items()}


def strided(x, n):
    x = x.reshape(-1)
    return x if x.size <= n else x[(np.arange(n, dtype=np.int64) * x.size) // n]


def describe_grads(params, full):
    """Entries of the golden file for the gradients that the parameters hold now."""
    grads = {name: get_grad(p).double().numpy() for name, p in params.items()}
    entries = {}
    for name, g in stack_experts(grads).items():
        rows = g.reshape(g.shape[0], -1) if "*" in name else g.reshape(1, -1)
        entries["grad_norm." + name] = np.sqrt((rows**2).sum(axis=1)).astype(np.float32)
        if full:
            entries["grad." + name] = g.astype(np.float32)
        else:
            entries["grad_sample." + name] = strided(g, N_SAMPLE).astype(np.float32)
    return entries


def write(label, tensors, config, facts):
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    meta = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    meta["config"] = json.dumps(config)
    path = FOLDER / f"{label}.safetensors"
    save_file(tensors, path, metadata=meta)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(tensors)} tensors; {facts}")
