"""PyTorch checkpoints as the two small models' training programs write them, and their weights under the names of
Hugging Face folders: python make_pt.py   (see README.md)"""

import torch
from safetensors.torch import save_file

from common import FOLDER, make_weight


def take(ours, name, *shape):
    """A new weight under our name; returns the tensor."""
    ours[name] = make_weight(name, shape, tied=True)
    return ours[name]


def moonlight_moe():
    d, f, n_head, n_expert, n_layer, vocab, ctx = 16, 24, 2, 3, 2, 40, 32
    ours, state = {}, {}
    state["tok_emb.weight"] = take(ours, "model.embed_tokens.weight", vocab, d)
    for i in range(n_layer):
        to, of = f"model.layers.{i}.", f"blocks.{i}."
        qkv = [take(ours, f"{to}self_attn.{p}_proj.weight", d, d) for p in "qkv"]
        state[of + "mha.freqs_cis"] = torch.polar(torch.ones(1, 1, ctx, d // n_head // 2),
                                                  torch.rand(1, 1, ctx, d // n_head // 2))
        state[of + "mha.mask"] = torch.full((1, 1, ctx, ctx), float("-inf")).triu(1)
        state[of + "mha.QKV.weight"] = torch.cat(qkv)
        state[of + "mha.O.weight"] = take(ours, to + "self_attn.o_proj.weight", d, d)
        state[of + "ffn.router.W.weight"] = take(ours, to + "mlp.gate.weight", n_expert, d)
        for e in range(n_expert):
            state[f"{of}ffn.experts.{e}.net.0.weight"] = take(ours, f"{to}mlp.experts.{e}.up_proj.weight", f, d)
            state[f"{of}ffn.experts.{e}.net.2.weight"] = take(ours, f"{to}mlp.experts.{e}.down_proj.weight", d, f)
        state[of + "norm1.W"] = take(ours, to + "input_layernorm.weight", d)
        state[of + "norm2.W"] = take(ours, to + "post_attention_layernorm.weight", d)
    state["norm.W"] = take(ours, "model.norm.weight", d)
    state["lm_head.weight"] = state["tok_emb.weight"]
    state["lm_head.bias"] = take(ours, "lm_head.bias", vocab)
    checkpoint = {
        "model": {"_orig_mod." + name: tensor for name, tensor in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.zeros(3)}}, "param_groups": []},
        "step": 5,
        "training_cfg": {"ctx_size": ctx, "max_lr": 6e-4, "device": "cuda"},
        "model_cfg": {"base": 10000, "vocab_size": vocab, "ctx_size": ctx, "embed_dim": d, "n_heads": n_head,
                      "ffn_dim": f, "eps": 1e-8, "n_blocks": n_layer, "n_experts": n_expert, "k": 2,
                      "capacity_factor": 1.25, "alpha_aux_loss": 1e-2},
    }
    return checkpoint, ours


def nano_moe():
    d, f, n_head, n_kv, n_expert, n_layer, vocab, ctx = 16, 20, 4, 2, 4, 2, 40, 32
    d_head = d // n_head
    ours, state = {}, {}
    state["token_embeddings.weight"] = take(ours, "model.embed_tokens.weight", vocab, d)
    for i in range(n_layer):
        to, of = f"model.layers.{i}.", f"layers.{i}."
        state[of + "attention.cos_matrix"] = torch.rand(ctx, d_head // 2)
        state[of + "attention.sin_matrix"] = torch.rand(ctx, d_head // 2)
        state[of + "attention.causal_mask"] = torch.full((1, 1, ctx, ctx), float("-inf")).triu(1)
        state[of + "attention.q_proj.weight"] = take(ours, to + "self_attn.q_proj.weight", d, d)
        kv = [take(ours, f"{to}self_attn.{p}_proj.weight", n_kv * d_head, d) for p in "kv"]
        state[of + "attention.kv_proj.weight"] = torch.cat(kv)
        state[of + "attention.c_proj.weight"] = take(ours, to + "self_attn.o_proj.weight", d, d)
        mlps = [("shared_experts.0", "shared_experts")] + [(f"experts.{e}",) * 2 for e in range(n_expert)]
        for theirs, mine in mlps:
            for name, ending, shape in (("gate", "w1", (f, d)), ("up", "w2", (f, d)), ("down", "c_proj", (d, f))):
                state[f"{of}feed_forward.{theirs}.{ending}.weight"] = take(
                    ours, f"{to}mlp.{mine}.{name}_proj.weight", *shape)
        state[of + "feed_forward.router.weight"] = take(ours, to + "mlp.gate.weight", n_expert, d)
        state[of + "attention_norm.weight"] = take(ours, to + "input_layernorm.weight", d)
        state[of + "ff_norm.weight"] = take(ours, to + "post_attention_layernorm.weight", d)
    state["norm.weight"] = take(ours, "model.norm.weight", d)
    state["output.weight"] = state["token_embeddings.weight"]
    checkpoint = {
        "step": 100, "model": state, "optimizer": {"state": {}, "param_groups": []},
        "args": {"d_model": d, "hidden_dim": f, "n_layers": n_layer, "n_heads": n_head, "vocab_size": vocab,
                 "num_experts": n_expert, "num_shared_experts": 1, "top_k": 2, "n_kv_heads": n_kv,
                 "max_seq_len": ctx, "rope_theta": 10000.0, "batch_size": 4, "rmsnorm_eps": 1e-6, "init_mean": 0.0,
                 "init_std": 0.02, "device": "cpu", "lr": 3e-4},
        "torch_rng_state": torch.zeros(16, dtype=torch.uint8),
        "numpy_rng_state": {"bit_generator": "PCG64", "state": {"state": 1 << 100, "inc": 3}, "has_uint32": 0},
    }
    return checkpoint, ours


for label, make in (("moonlight_moe", moonlight_moe), ("nano_moe", nano_moe)):
    torch.manual_seed(0)
    checkpoint, ours = make()
    torch.save(checkpoint, FOLDER / f"pt_{label}.pt")
    save_file(ours, FOLDER / f"pt_{label}.safetensors")
