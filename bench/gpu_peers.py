"""PyTorch and transformers on the shapes of bench_gpu_train and of decoding, on one GPU: what ours is compared with.

    python bench/gpu_peers.py [--only layers,nano,130m,decode] [--repeats 10] [--small] [--device cpu]

layers   one dense and four expert layers of moonlight-16b (MLA, 64 experts, 6 of them and 2 shared), 8192 tokens in bf16:
         forward and backward, eager (a loop over experts) and compiled with torch._grouped_mm
nano     training steps of nano-moe, 64 x 512, bf16 autocast, fused AdamW, compiled; experts as a loop, dense, or grouped
130m     the same of moonlight-moe-130m, 16 x 1024 (dropless here)
decode   transformers, random moonlight-16b in bf16: decode at batch 1 and 64 with a cache, prefill of 8192 tokens
Medians of CUDA events after warm-up, random inputs; JSON on the last line.  --small: shapes that only show that it runs.
Exit status: 0, 77 without a GPU, 1 where a measurement failed (it is named; the others are made)."""

import argparse
import json
import math
import statistics
import time
import traceback

import torch
import torch.nn.functional as F
from torch import nn

ROWS, FAILED = [], []


def report(name, **values):
    ROWS.append({"name": name, **{k: round(v, 4) for k, v in values.items()}})
    print(f"{name:52}" + "".join(f"  {k} {v:.3f}" for k, v in values.items()), flush=True)


def timed(run, repeats, warm=3):
    """Median seconds of run(), by events of the GPU (by this machine's clock where there is none)."""
    seconds = []
    for i in range(-warm, repeats):
        if torch.cuda.is_available():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            stop.record()
            torch.cuda.synchronize()
            taken = start.elapsed_time(stop) / 1000
        else:
            begin = time.perf_counter()
            run()
            taken = time.perf_counter() - begin
        if i >= 0:
            seconds.append(taken)
    return statistics.median(seconds)


def attempt(name, run):
    """run(), or a line that says why this version of PyTorch or this GPU cannot; the other measurements go on."""
    try:
        run()
    except Exception as error:  # of any library's own kind
        FAILED.append(name)
        print(f"{name}: failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", flush=True)
        traceback.print_exc()
    torch.compiler.reset()


def matrix(*shape):
    return nn.Parameter(torch.randn(*shape) / math.sqrt(shape[-1]))


def rotate(x, cos, sin):  # [..., seq, columns], pairs (2i, 2i + 1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def angles(n, columns, base, device, dtype):
    inverse = base ** (-torch.arange(0, columns, 2, device=device) / columns)
    angle = torch.arange(n, device=device)[:, None] * inverse
    return angle.cos().to(dtype), angle.sin().to(dtype)


def run_experts(x, gate_up, down, prob, index, way, act):
    """x [tokens, d], gate_up [e, f or 2 f, d], down [e, d, f], prob and index [tokens, k] -> [tokens, d]"""
    n_expert, k = gate_up.size(0), index.size(1)
    if way == "dense":
        weight = torch.zeros(x.size(0), n_expert, device=x.device, dtype=x.dtype).scatter(1, index, prob.to(x.dtype))
        hidden = act(x @ gate_up.mT) * weight.T[..., None]
        return (hidden @ down.mT).sum(0)
    if way == "grouped":
        order = index.flatten().argsort(stable=True)
        # Not bincount, which breaks torch.compile's graph.
        chosen = index.flatten()[:, None] == torch.arange(n_expert, device=x.device)
        offset = chosen.sum(0).cumsum(0).to(torch.int32)
        token = order // k
        hidden = act(torch._grouped_mm(x[token], gate_up.mT, offs=offset))
        out = torch._grouped_mm(hidden, down.mT, offs=offset) * prob.flatten()[order, None].to(x.dtype)
        return torch.zeros_like(x).index_add(0, token, out)
    y = torch.zeros_like(x)
    for e in range(n_expert):
        token, slot = torch.where(index == e)
        out = F.linear(act(F.linear(x[token], gate_up[e])), down[e]) * prob[token, slot, None].to(x.dtype)
        y = y.index_add(0, token, out.to(y.dtype))
    return y


def swiglu(x):
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


# ---- layers of moonlight-16b ----

class LatentLayer(nn.Module):
    def __init__(self, s, is_dense):
        super().__init__()
        d, h = s.d, s.heads
        self.s, self.is_dense = s, is_dense
        self.norm1, self.norm2, self.norm_kv = nn.RMSNorm(d), nn.RMSNorm(d), nn.RMSNorm(s.lora)
        self.q, self.kv_a = matrix(h * (s.nope + s.rope), d), matrix(s.lora + s.rope, d)
        self.kv_b, self.o = matrix(h * (s.nope + s.d_v), s.lora), matrix(d, h * s.d_v)
        f = s.f_dense if is_dense else s.f * s.shared
        self.gate_up, self.down = matrix(2 * f, d), matrix(d, f)
        if not is_dense:
            self.router = matrix(s.experts, d)
            self.expert_gate_up, self.expert_down = matrix(s.experts, 2 * s.f, d), matrix(s.experts, d, s.f)

    def attention(self, x, cos, sin):
        s, (b, n, _) = self.s, x.shape
        q = F.linear(x, self.q).view(b, n, s.heads, -1).transpose(1, 2)
        latent, k_rope = F.linear(x, self.kv_a).split([s.lora, s.rope], dim=-1)
        kv = F.linear(self.norm_kv(latent), self.kv_b).view(b, n, s.heads, -1).transpose(1, 2)
        k, v = kv.split([s.nope, s.d_v], dim=-1)
        q = torch.cat([q[..., : s.nope], rotate(q[..., s.nope :], cos, sin)], dim=-1)
        k_rope = rotate(k_rope, cos, sin)[:, None].expand(b, s.heads, n, s.rope)
        y = F.scaled_dot_product_attention(q, torch.cat([k, k_rope], dim=-1), v, is_causal=True)
        return F.linear(y.transpose(1, 2).reshape(b, n, -1), self.o)

    def forward(self, x, cos, sin, way):
        x = x + self.attention(self.norm1(x), cos, sin)
        u = self.norm2(x).flatten(0, 1)
        y = F.linear(swiglu(F.linear(u, self.gate_up)), self.down)
        if not self.is_dense:
            score = F.linear(u.float(), self.router.float()).sigmoid()
            prob, index = score.topk(self.s.top_k, dim=-1)
            prob = prob / prob.sum(-1, keepdim=True) * 2.446
            y = y + run_experts(u, self.expert_gate_up, self.expert_down, prob, index, way, swiglu)
        return x + y.view_as(x)


def run_layers(args):
    if args.small:
        s = argparse.Namespace(d=32, heads=2, nope=16, rope=8, d_v=16, lora=32, f_dense=32, f=16, shared=2, experts=8,
                               top_k=2, layers=2)
    else:
        s = argparse.Namespace(d=2048, heads=16, nope=128, rope=64, d_v=128, lora=512, f_dense=11264, f=1408, shared=2,
                               experts=64, top_k=6, layers=5)
    with torch.device(args.device):
        layers = nn.ModuleList(LatentLayer(s, i == 0) for i in range(s.layers)).to(torch.bfloat16)
    for batch, n in [(1, 32)] if args.small else [(1, 8192), (4, 2048)]:
        cos, sin = angles(n, s.rope, 50000.0, args.device, torch.bfloat16)
        x = torch.randn(batch, n, s.d, device=args.device, dtype=torch.bfloat16)
        dy = torch.randn_like(x)
        for name, way, compile_it in [("eager", "loop", False), ("compiled, grouped", "grouped", True)]:
            def forward(x, way=way):
                for layer in layers:
                    x = layer(x, cos, sin, way)
                return x

            run = torch.compile(forward) if compile_it else forward

            def both():
                layers.zero_grad(set_to_none=True)
                run(x).backward(dy)

            def once():
                with torch.no_grad():
                    run(x)

            label = f"layers of moonlight-16b, {batch} x {n}, {name}"
            attempt(label, lambda: report(label, both_ms=timed(both, args.repeats) * 1e3,
                                          forward_only_ms=timed(once, args.repeats) * 1e3))


# ---- whole small models ----

class SmallLayer(nn.Module):
    def __init__(self, s):
        super().__init__()
        d, h, kv, w = s.d, s.heads, s.kv_heads, s.head_dim
        self.s = s
        self.norm1, self.norm2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.qkv, self.o, self.router = matrix((h + 2 * kv) * w, d), matrix(d, h * w), matrix(s.experts, d)
        self.up, self.down = matrix(s.experts, s.f * (2 if s.gated else 1), d), matrix(s.experts, d, s.f)
        if s.shared:
            self.shared_up, self.shared_down = matrix(2 * s.f, d), matrix(d, s.f)

    def forward(self, x, cos, sin, way):
        s, (b, n, _) = self.s, x.shape
        q, k, v = F.linear(self.norm1(x), self.qkv).split([s.heads * s.head_dim] + [s.kv_heads * s.head_dim] * 2, dim=-1)
        q, k, v = (t.view(b, n, -1, s.head_dim).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v,
                                           is_causal=True, enable_gqa=s.heads != s.kv_heads)
        x = x + F.linear(y.transpose(1, 2).reshape(b, n, -1), self.o)
        u = self.norm2(x).flatten(0, 1)
        with torch.autocast(x.device.type, enabled=False):
            prob, index = F.linear(u.float(), self.router).softmax(-1).topk(s.top_k, dim=-1)
        if s.gated:
            prob = prob / prob.sum(-1, keepdim=True)
        half = u.to(torch.bfloat16) if s.half else u
        act = swiglu if s.gated else F.relu
        z = run_experts(half, self.up.to(half.dtype), self.down.to(half.dtype), prob, index, way, act)
        if s.shared:
            z = z + F.linear(swiglu(F.linear(half, self.shared_up.to(half.dtype))), self.shared_down.to(half.dtype))
        return x + z.view(b, n, -1).to(x.dtype)


class Small(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.embed = nn.Embedding(s.vocab, s.d)
        self.layers, self.norm = nn.ModuleList(SmallLayer(s) for _ in range(s.layers)), nn.RMSNorm(s.d)

    def forward(self, ids, targets, cos, sin, way):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, cos, sin, way)
        return F.cross_entropy(F.linear(self.norm(x), self.embed.weight).flatten(0, 1), targets.flatten())


def run_small(args, name, s, batch, n):
    if args.small:
        s.layers, s.vocab, batch, n = 1, 64, 1, 16
    for way in ("loop", "dense", "grouped"):
        if way == "grouped" and (s.f % 8 or s.d % 8):
            continue
        torch.manual_seed(1)
        with torch.device(args.device):
            model = Small(s)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
        ids = torch.randint(s.vocab, (batch, n), device=args.device)
        targets = torch.randint(s.vocab, (batch, n), device=args.device)
        cos, sin = angles(n, s.head_dim, 10000.0, args.device, torch.float32)
        loss_of = torch.compile(model) if args.compile else model

        def step():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(torch.device(args.device).type, torch.bfloat16):
                loss = loss_of(ids, targets, cos, sin, way)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        label = f"{name}, {batch} x {n}, {'compiled' if args.compile else 'eager'}, {way}"
        attempt(label, lambda: report(label, tokens_s=batch * n / timed(step, args.repeats, warm=5)))


# ---- decode ----

def run_decode(args):
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    sizes = dict(vocab_size=163840, hidden_size=2048, intermediate_size=11264, moe_intermediate_size=1408,
                 num_hidden_layers=27, num_attention_heads=16, num_key_value_heads=16, n_shared_experts=2,
                 n_routed_experts=64, num_experts_per_tok=6, kv_lora_rank=512, q_lora_rank=None, qk_nope_head_dim=128,
                 qk_rope_head_dim=64, v_head_dim=128, first_k_dense_replace=1, n_group=1, topk_group=1,
                 routed_scaling_factor=2.446, norm_topk_prob=True, max_position_embeddings=8192)
    if args.small:
        sizes.update(vocab_size=256, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
                     num_attention_heads=2, num_key_value_heads=2, n_routed_experts=8, num_experts_per_tok=2,
                     kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(args.device):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**sizes)).eval()
    torch.set_default_dtype(torch.float32)
    n_new, prompt = (16, 8) if args.small else (64, 128)

    def decode(batch):
        ids = torch.randint(sizes["vocab_size"], (batch, prompt), device=args.device)
        with torch.no_grad():
            def generate(n):
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n,
                               do_sample=False, pad_token_id=0)

            first = timed(lambda: generate(1), 3, warm=1)
            seconds = timed(lambda: generate(n_new + 1), 3, warm=0) - first
        if seconds <= 0:
            raise RuntimeError(f"batch {batch}: {n_new + 1} tokens took no longer than one: measure on a quieter machine")
        report(f"transformers, moonlight-16b, decode, batch {batch}", tokens_s=batch * n_new / seconds)

    for batch in (1, 64):
        attempt(f"decode, batch {batch}", lambda: decode(batch))
    ids = torch.randint(sizes["vocab_size"], (1, 64 if args.small else 8192), device=args.device)
    with torch.no_grad():
        seconds = timed(lambda: model(ids, use_cache=True, logits_to_keep=1), 3, warm=1)
    report(f"transformers, moonlight-16b, prefill of {ids.size(1)}", tokens_s=ids.size(1) / seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="layers,nano,130m,decode", metavar="PART,...")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--eager", dest="compile", action="store_false", help="small models without torch.compile")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no GPU")
        raise SystemExit(77)
    torch.backends.cuda.matmul.allow_tf32 = False
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else "none"
    nano = argparse.Namespace(d=192, layers=6, heads=8, kv_heads=2, head_dim=24, f=512, experts=4, top_k=2, shared=1,
                              gated=True, vocab=10000, half=True)
    chat = argparse.Namespace(d=512, layers=8, heads=8, kv_heads=8, head_dim=64, f=2048, experts=6, top_k=2, shared=0,
                              gated=False, vocab=50304, half=True)
    parts = {"layers": lambda: run_layers(args), "nano": lambda: run_small(args, "nano-moe", nano, 64, 512),
             "130m": lambda: run_small(args, "moonlight-moe-130m", chat, 16, 1024), "decode": lambda: run_decode(args)}
    for part in args.only.split(","):
        attempt(part, parts[part])
        if args.device == "cuda":
            torch.cuda.empty_cache()
    print(json.dumps({"gpu": gpu, "torch": torch.__version__, "rows": ROWS, "failed": FAILED}))
    raise SystemExit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
