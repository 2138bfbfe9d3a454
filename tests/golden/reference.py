"""nano-moe and moonlight-moe-130m in plain PyTorch, written for reading: the truth of their golden files."""

import math

import torch
import torch.nn.functional as F

NANO = dict(
    vocab_size=10000, hidden_size=192, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2, head_dim=24,
    moe_intermediate_size=512, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, norm_topk_prob=True,
    expert_relu=False, capacity_factor=0.0, rms_norm_eps=1e-6, rope_theta=10000.0, head_bias=False,
    balance_coef=1e-2, z_coef=1e-3, aux_mean=True,
)  # fmt: skip
MOE_130M = dict(
    vocab_size=50304, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8, head_dim=64,
    moe_intermediate_size=2048, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=0, norm_topk_prob=False,
    expert_relu=True, capacity_factor=1.25, rms_norm_eps=1e-8, rope_theta=10000.0, head_bias=True,
    balance_coef=1e-2, z_coef=0.0, aux_mean=False,
)  # fmt: skip
PRESETS = {"nano_moe": NANO, "moonlight_moe_130m": MOE_130M}


def shapes(c):
    """{name: shape} of every stored tensor; the head is the embedding."""
    d, f, h = c["hidden_size"], c["moe_intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * h, c["num_key_value_heads"] * h
    mlp = {"up_proj": (f, d), "down_proj": (d, f)} | ({} if c["expert_relu"] else {"gate_proj": (f, d)})
    out = {"model.embed_tokens.weight": (c["vocab_size"], d), "model.norm.weight": (d,)}
    if c["head_bias"]:
        out["lm_head.bias"] = (c["vocab_size"],)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        out |= {p + "input_layernorm.weight": (d,), p + "post_attention_layernorm.weight": (d,)}
        out |= {p + "self_attn.q_proj.weight": (q, d), p + "self_attn.k_proj.weight": (kv, d)}
        out |= {p + "self_attn.v_proj.weight": (kv, d), p + "self_attn.o_proj.weight": (d, q)}
        out |= {p + "mlp.gate.weight": (c["n_routed_experts"], d)}
        for e in range(c["n_routed_experts"]):
            out |= {f"{p}mlp.experts.{e}.{k}.weight": s for k, s in mlp.items()}
        if c["n_shared_experts"]:
            out |= {f"{p}mlp.shared_experts.{k}.weight": s for k, s in mlp.items()}
    return out


def rmsnorm(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def rope(x, theta):
    """x [tokens, heads, head_dim]: columns (2i, 2i+1) turn by position / theta^(2i / head_dim)."""
    n, _heads, d = x.shape
    freq = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * freq
    cos, sin = angle.cos().to(x.dtype)[:, None], angle.sin().to(x.dtype)[:, None]
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def attention(w, c, p, x, lengths):
    """Causal, within each sequence; positions begin at 0 in each."""
    out = []
    for part in x.split(lengths):
        n, groups = len(part), c["num_attention_heads"] // c["num_key_value_heads"]
        q, k, v = ((part @ w[f"{p}{m}_proj.weight"].T).view(n, -1, c["head_dim"]) for m in "qkv")
        q, k = rope(q, c["rope_theta"]), rope(k, c["rope_theta"])
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        score = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(c["head_dim"])
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        prob = score.masked_fill(future, -math.inf).softmax(-1)
        out.append(torch.einsum("hij,jhd->ihd", prob, v).reshape(n, -1))
    return torch.cat(out) @ w[f"{p}o_proj.weight"].T


def come_near(stats, key, token, distance):
    stats[key][token] = torch.minimum(stats[key][token], distance.detach().to(torch.float64))


def mlp(w, c, p, x, token, stats):
    up = x @ w[p + "up_proj.weight"].T
    if c["expert_relu"]:
        stats["active"].append(up.detach() > 0)
        come_near(stats, "kink", token, up.abs().amin(-1))
        hidden = F.relu(up)
    else:
        hidden = F.silu(x @ w[p + "gate_proj.weight"].T) * up
    return hidden @ w[p + "down_proj.weight"].T


def keep_within_capacity(index, prob, c, stats):
    """bool [tokens, top_k]: each expert keeps its highest gates, the earlier token where they are equal."""
    tokens, top_k = index.shape
    capacity = math.ceil(tokens * top_k * c["capacity_factor"] / c["n_routed_experts"])
    keep = torch.zeros_like(index, dtype=torch.bool)
    for e in range(c["n_routed_experts"]):
        token, slot = torch.where(index == e)
        gate, order = prob[token, slot].sort(descending=True, stable=True)
        come_near(stats, "margin", token[order[capacity:]], gate[capacity - 1 : capacity] - gate[capacity:])
        order = order[:capacity]
        keep[token[order], slot[order]] = True
    return keep


def moe(w, c, p, x, training, stats):
    n_expert, top_k = c["n_routed_experts"], c["num_experts_per_tok"]
    logits = x @ w[p + "gate.weight"].T
    score = logits.softmax(-1)
    prob, index = score.topk(top_k, dim=-1)
    top = score.detach().sort(-1, descending=True)[0]
    come_near(stats, "margin", torch.arange(len(x)), top[:, top_k - 1] - top[:, top_k])
    stats["score"].append(score.detach())
    if c["norm_topk_prob"]:
        prob = prob / prob.sum(-1, keepdim=True)
    keep = torch.ones_like(index, dtype=torch.bool)
    if training and c["capacity_factor"]:
        keep = keep_within_capacity(index, prob.detach(), c, stats)
    y = torch.zeros_like(x)
    stats["choice"].append(torch.where(keep, index, -1))
    accepted = []
    for e in range(n_expert):
        token, slot = torch.where((index == e) & keep)
        accepted.append(len(token))
        y = y.index_add(0, token, mlp(w, c, f"{p}experts.{e}.", x[token], token, stats) * prob[token, slot, None])
    if c["n_shared_experts"]:
        y = y + mlp(w, c, p + "shared_experts.", x, torch.arange(len(x)), stats) / c["n_shared_experts"]
    share = torch.tensor(accepted, dtype=x.dtype) / (len(x) * top_k)
    stats["balance"].append(n_expert * (share * score.mean(0)).sum())
    stats["z"].append(logits.logsumexp(-1).pow(2).mean())
    stats["dropped"].append(len(x) * top_k - sum(accepted))
    return y


def forward(w, c, ids, lengths, training):
    """ids [tokens], sequences end to end -> logits [tokens, vocab], statistics.

    Of every layer: balance, z, dropped, score [tokens, n_expert], choice [tokens, top_k] (-1: dropped), and of each
    expert network which ReLUs are active.  Of all layers together, how near each token comes to where the function is
    discontinuous: margin [tokens], the smallest distance between a score that won (a place among the top k, or within
    an expert's capacity) and the best that lost; kink [tokens], the smallest |x| of any relu(x)."""
    stats = {k: [] for k in ["balance", "z", "dropped", "score", "choice", "active"]}
    stats |= {k: torch.ones(len(ids), dtype=torch.float64) for k in ["margin", "kink"]}
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p, eps = f"model.layers.{i}.", c["rms_norm_eps"]
        x = x + attention(w, c, p + "self_attn.", rmsnorm(x, w[p + "input_layernorm.weight"], eps), lengths)
        x = x + moe(w, c, p + "mlp.", rmsnorm(x, w[p + "post_attention_layernorm.weight"], eps), training, stats)
    logits = rmsnorm(x, w["model.norm.weight"], c["rms_norm_eps"]) @ w["model.embed_tokens.weight"].T
    return logits + w["lm_head.bias"] if c["head_bias"] else logits, stats


def losses(w, c, ids, lengths):
    """{ce, balance, z, total}; balance and z without their coefficients, summed or averaged over the layers."""
    logits, stats = forward(w, c, ids, lengths, training=True)
    ce = sum(F.cross_entropy(y[:-1], t[1:], reduction="sum") for y, t in zip(logits.split(lengths), ids.split(lengths)))
    ce = ce / (len(ids) - len(lengths))
    scale = 1 / c["num_hidden_layers"] if c["aux_mean"] else 1.0
    balance, z = sum(stats["balance"]) * scale, sum(stats["z"]) * scale
    total = ce + c["balance_coef"] * balance + c["z_coef"] * z
    return {"ce": ce, "balance": balance, "z": z, "total": total}, logits, stats
