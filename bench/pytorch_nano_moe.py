"""The training step of nano-moe in PyTorch on the CPU: what `moonlight pretrain` of the same model is compared with.

    pip install torch numpy;  python bench/pytorch_nano_moe.py [--threads 2] [--batch 8] [--seq 512] [--steps 5]

One step is forward, backward, gradient norm clipping and fused AdamW on batch x seq tokens, in fp32, eager and under
torch.compile (needs g++).  Attention is scaled_dot_product_attention with grouped keys.  Experts run in two ways, and the
faster one stands for each mode:
    loop   tokens gathered per expert, three products per expert (what one would write for a GPU)
    dense  every expert on every token as batched products, weighted by the gates (no gather; twice the work of top-2 of 4,
           but fixed shapes, which is what a compiler likes)
Prints tokens per second, the best step of several after warm-up, and the peak memory of each process.  On a machine that
others use, set OMP_WAIT_POLICY=passive: threads that spin at a barrier while another is not scheduled cost a factor."""

import argparse
import math
import multiprocessing
import resource
import time

D, LAYERS, HEADS, KV_HEADS, HEAD_DIM, F_EXPERT, EXPERTS, TOP_K, VOCAB = 192, 6, 8, 2, 24, 512, 4, 2, 10000


def build(torch, way):
    nn, F = torch.nn, torch.nn.functional

    def rope(x, cos, sin):  # [batch, heads, seq, head_dim], pairs (2i, 2i + 1)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            matrix = lambda *shape: nn.Parameter(torch.randn(*shape) * math.sqrt(2 / shape[-1]))
            self.norm1, self.norm2 = nn.RMSNorm(D, eps=1e-6), nn.RMSNorm(D, eps=1e-6)
            self.qkv, self.o = matrix((HEADS + 2 * KV_HEADS) * HEAD_DIM, D), matrix(D, HEADS * HEAD_DIM)
            self.router = nn.Parameter(torch.randn(EXPERTS, D) * 0.02)
            self.gate_up, self.down = matrix(EXPERTS, 2 * F_EXPERT, D), matrix(EXPERTS, D, F_EXPERT)
            self.shared_gate_up, self.shared_down = matrix(2 * F_EXPERT, D), matrix(D, F_EXPERT)

        def attention(self, x, cos, sin):
            n_batch, n, _ = x.shape
            sizes = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM]
            q, k, v = F.linear(x, self.qkv).split(sizes, dim=-1)
            q, k, v = (t.view(n_batch, n, -1, HEAD_DIM).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True, enable_gqa=True)
            return F.linear(y.transpose(1, 2).reshape(n_batch, n, -1), self.o)

        def experts_loop(self, x, prob, index):
            y = torch.zeros_like(x)
            for e in range(EXPERTS):
                token, slot = torch.where(index == e)
                gate, up = F.linear(x[token], self.gate_up[e]).chunk(2, dim=-1)
                out = F.linear(F.silu(gate) * up, self.down[e]) * prob[token, slot, None]
                y = y.index_add(0, token, out)
            return y

        def experts_dense(self, x, prob, index):
            weight = torch.zeros(x.size(0), EXPERTS).scatter(1, index, prob)
            gate, up = (x @ self.gate_up.mT).chunk(2, dim=-1)  # [experts, tokens, f]
            hidden = F.silu(gate) * up * weight.T[..., None]
            return torch.bmm(hidden, self.down.mT).sum(0)

        def moe(self, x):
            logits = F.linear(x, self.router)
            score = logits.softmax(-1)
            prob, index = score.topk(TOP_K, dim=-1)
            prob = prob / prob.sum(-1, keepdim=True)
            share = F.one_hot(index, EXPERTS).float().mean((0, 1))
            balance = EXPERTS * (share * score.mean(0)).sum()
            z = logits.logsumexp(-1).square().mean()
            gate, up = F.linear(x, self.shared_gate_up).chunk(2, dim=-1)
            shared = F.linear(F.silu(gate) * up, self.shared_down)
            routed = self.experts_loop if way == "loop" else self.experts_dense
            return routed(x, prob, index) + shared, 1e-2 * balance + 1e-3 * z

        def forward(self, x, cos, sin):
            x = x + self.attention(self.norm1(x), cos, sin)
            y, aux = self.moe(self.norm2(x).view(-1, D))
            return x + y.view_as(x), aux

    class Model(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.embed = nn.Parameter(torch.randn(VOCAB, D) * 0.02)
            self.layers, self.norm = nn.ModuleList(Layer() for _ in range(LAYERS)), nn.RMSNorm(D, eps=1e-6)
            angle = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
            self.register_buffer("cos", angle.cos(), persistent=False)
            self.register_buffer("sin", angle.sin(), persistent=False)

        def forward(self, ids, target):
            x, aux = self.embed[ids], 0.0
            for layer in self.layers:
                x, a = layer(x, self.cos, self.sin)
                aux = aux + a / LAYERS
            logits = F.linear(self.norm(x).view(-1, D), self.embed)
            return F.cross_entropy(logits, target.view(-1)) + aux

    return Model


def measure(args, way, compiled, queue):
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = build(torch, way)(args.seq)
    n_param = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    run = torch.compile(model) if compiled else model
    ids = torch.randint(0, VOCAB, (args.batch, args.seq + 1))
    x, target = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    best = math.inf
    for step in range(args.warmup + args.steps):
        start = time.perf_counter()
        loss = run(x, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= args.warmup:
            best = min(best, time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    queue.put((n_param, torch.__version__, best, memory, loss.item()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in [("threads", 2), ("batch", 8), ("seq", 512), ("steps", 5), ("warmup", 2)]:
        parser.add_argument("--" + name, type=int, default=value)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")  # a fresh process each, for an honest peak of memory
    for compiled in (False, True):
        for way in ("loop", "dense"):
            queue = context.SimpleQueue()
            process = context.Process(target=measure, args=(args, way, compiled, queue))
            process.start()
            process.join()
            mode = f"{'compile' if compiled else 'eager':8}{way:6}"
            if process.exitcode != 0:
                print(f"{mode} failed (exit status {process.exitcode})")
                continue
            n_param, version, seconds, memory, loss = queue.get()
            print(
                f"{mode} {args.batch * args.seq / seconds:8.0f} tokens/s   {seconds:.3f} s/step   peak {memory:.0f} MB   "
                f"loss {loss:.3f}   {n_param} parameters, torch {version}, {args.threads} threads",
                flush=True,
            )


if __name__ == "__main__":
    main()
