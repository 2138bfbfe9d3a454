"""Golden files of models that transformers has: python make_transformers.py [label ...]   (see README.md)"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import common

LENGTHS = [7, 13, 20]  # the ragged batch: three sequences, end to end
TRIES = 20  # sets of ids, of which the one with the widest routing margin is taken

MOE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, vocab_size=256, max_position_embeddings=64)

MOONLIGHT = dict(
    model_type="deepseek_v3", vocab_size=256, hidden_size=16, intermediate_size=32, moe_intermediate_size=4,
    num_hidden_layers=27, num_attention_heads=2, num_key_value_heads=2, n_shared_experts=2, n_routed_experts=64,
    routed_scaling_factor=2.446, kv_lora_rank=8, q_lora_rank=None, qk_rope_head_dim=4, v_head_dim=8,
    qk_nope_head_dim=8, n_group=1, topk_group=1, num_experts_per_tok=6, first_k_dense_replace=1,
    norm_topk_prob=True, hidden_act="silu", max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=50000.0,
    attention_bias=False, tie_word_embeddings=False, num_nextn_predict_layers=0,
)  # fmt: skip

CONFIGS = {
    "moonlight_tiny": MOONLIGHT,
    "deepseek_yarn": MOONLIGHT | dict(
        num_hidden_layers=3, hidden_size=32, q_lora_rank=8, n_routed_experts=16, num_experts_per_tok=4, n_group=4,
        topk_group=2, moe_intermediate_size=8, n_shared_experts=1, routed_scaling_factor=2.5,
        num_attention_heads=4, num_key_value_heads=4, qk_rope_head_dim=8, rms_norm_eps=1e-6, rope_theta=10000.0,
        rope_scaling=dict(type="yarn", rope_type="yarn", factor=4.0, original_max_position_embeddings=16,
                          beta_fast=4.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=0.5)),
    "deepseek_v2": MOONLIGHT | dict(
        model_type="deepseek_v2", num_hidden_layers=3, hidden_size=32, n_routed_experts=16, num_experts_per_tok=4,
        moe_intermediate_size=8, num_attention_heads=4, num_key_value_heads=4, qk_rope_head_dim=8, rms_norm_eps=1e-6,
        rope_theta=10000.0, routed_scaling_factor=1.0, norm_topk_prob=False, topk_method="greedy",
        rope_scaling=dict(type="yarn", rope_type="yarn", factor=4.0, original_max_position_embeddings=16,
                          beta_fast=4.0, beta_slow=1.0, mscale=0.707, mscale_all_dim=0.707)),
    "deepseek_v2_groups": MOONLIGHT | dict(
        model_type="deepseek_v2", num_hidden_layers=3, hidden_size=32, n_routed_experts=16, num_experts_per_tok=3,
        moe_intermediate_size=8, num_attention_heads=4, num_key_value_heads=4, qk_rope_head_dim=8, rms_norm_eps=1e-6,
        rope_theta=10000.0, routed_scaling_factor=16.0, norm_topk_prob=False, topk_method="group_limited_greedy",
        n_group=4, topk_group=2, q_lora_rank=8,
        rope_scaling=dict(type="yarn", rope_type="yarn", factor=4.0, original_max_position_embeddings=16,
                          beta_fast=4.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=0.707)),
    "llama3": dict(
        model_type="llama", vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-5,
        rope_theta=500.0, tie_word_embeddings=True, hidden_act="silu", attention_bias=False, mlp_bias=False,
        rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=32)),
    "qwen2": dict(
        model_type="qwen2", vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6,
        rope_theta=1000000.0, tie_word_embeddings=True, hidden_act="silu", use_sliding_window=False),
    "qwen3": dict(
        model_type="qwen3", vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-6,
        rope_theta=1000000.0, tie_word_embeddings=False, hidden_act="silu", attention_bias=False,
        use_sliding_window=False),
    "glm4_moe": MOE | dict(
        model_type="glm4_moe", num_attention_heads=4, num_key_value_heads=2, head_dim=16, partial_rotary_factor=0.5,
        use_qk_norm=True, attention_bias=True, moe_intermediate_size=16, num_experts_per_tok=3, n_routed_experts=8,
        n_shared_experts=1, routed_scaling_factor=1.5, n_group=1, topk_group=1, first_k_dense_replace=1,
        norm_topk_prob=True, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
        num_nextn_predict_layers=0, hidden_act="silu"),
    "ernie4_5_moe": MOE | dict(
        model_type="ernie4_5_moe", num_attention_heads=4, num_key_value_heads=2, moe_intermediate_size=16, moe_k=2,
        moe_num_experts=8, moe_num_shared_experts=1, moe_layer_start_index=1, moe_layer_end_index=2,
        moe_layer_interval=1, use_bias=False, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True,
        hidden_act="silu"),
}  # fmt: skip


def name_tensors(model):
    """{checkpoint name: (tensor, slices)} for everything stored, experts apart; and the routers' biases."""
    params, biases = {}, {}
    tied = model.config.tie_word_embeddings
    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        if name.endswith("e_score_correction_bias"):
            biases[name.replace("moe_statics.", "")] = tensor
        elif name.endswith("experts.gate_up_proj"):
            half = tensor.size(1) // 2
            for e in range(tensor.size(0)):
                prefix = name.removesuffix("gate_up_proj") + str(e)
                params[f"{prefix}.gate_proj.weight"] = (tensor, (e, slice(0, half)))
                params[f"{prefix}.up_proj.weight"] = (tensor, (e, slice(half, None)))
        elif name.endswith("experts.down_proj"):
            for e in range(tensor.size(0)):
                params[f"{name.removesuffix('down_proj')}{e}.down_proj.weight"] = (tensor, (e,))
        elif name.endswith("inv_freq") or (tied and name == "lm_head.weight"):
            continue
        else:
            params[name] = (tensor, None)
    return params, biases


@torch.no_grad()
def fill(model):
    params, biases = name_tensors(model)
    tied = model.config.tie_word_embeddings
    for name, p in params.items():
        w = common.get(p)
        w.copy_(common.make_weight(name, w.shape, tied))
    for name, tensor in biases.items():
        tensor.copy_(common.make_weight(name, (tensor.numel(),), tied).view(tensor.shape))
    return params


def watch_margins(model, config):
    """Hooks that gather, per router call, how far the last chosen expert is from the first one left out."""
    margins = []

    def hook(module, _inputs, output):
        logits = output[0]
        softmax = config["model_type"] in ("ernie4_5_moe", "deepseek_v2")
        choice = logits.softmax(-1) if softmax else logits.sigmoid()
        if config["model_type"] != "deepseek_v2":
            bias = module.moe_statics.e_score_correction_bias if softmax else module.e_score_correction_bias
            choice = choice + bias.view(-1)
        if config.get("n_group", 1) > 1:
            groups = choice.view(choice.size(0), config["n_group"], -1)
            by_best = config.get("topk_method") == "group_limited_greedy"
            best = groups.max(-1)[0] if by_best else groups.topk(2, dim=-1)[0].sum(-1)
            top = best.sort(-1, descending=True)
            k = config["topk_group"]
            margins.append((top[0][:, k - 1] - top[0][:, k]).min().item())
            mask = torch.zeros_like(best).scatter_(1, top[1][:, :k], 1).unsqueeze(-1).expand_as(groups)
            choice = choice.masked_fill(mask.reshape(choice.shape) == 0, -1e9)
        top = choice.sort(-1, descending=True)[0]
        k = config.get("num_experts_per_tok", config.get("moe_k"))
        margins.append((top[:, k - 1] - top[:, k]).min().item())

    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(hook)
    return margins


def run(model, ids):
    """Logits of every token, each sequence by itself; the summed cross-entropy and its number of targets."""
    logits, loss, count = [], 0.0, 0
    for part in ids.split(LENGTHS):
        y = model(input_ids=part[None], use_cache=False).logits[0]
        loss = loss + F.cross_entropy(y[:-1], part[1:], reduction="sum")
        count += len(part) - 1
        logits.append(y)
    return torch.cat(logits), loss / count


def choose_ids(model, label, vocab, margins):
    best = (-1.0, None)
    for attempt in range(TRIES):
        ids = common.make_ids(f"{label}.{attempt}", sum(LENGTHS), vocab)
        margins.clear()
        with torch.no_grad():
            run(model, ids)
        margin = min(margins, default=1.0)
        if margin > best[0]:
            best = (margin, ids)
        if not margins:
            break
    return best


def make(label):
    config = CONFIGS[label]
    hf = AutoConfig.for_model(**config)
    build = lambda: AutoModelForCausalLM.from_config(hf, attn_implementation="eager").float().eval()
    model = build()
    params = fill(model)
    margins = watch_margins(model, config)
    margin, ids = choose_ids(model, label, config["vocab_size"], margins)
    model.zero_grad()
    logits, loss = run(model, ids)
    loss.backward()
    tensors = {
        "ids": ids.numpy().astype(np.int32),
        "seq": np.cumsum([0] + LENGTHS).astype(np.int32),
        "logits": logits.detach().numpy(),
        "loss": np.array([loss.item()], dtype=np.float64),
    } | common.describe_grads(params, full=label == "moonlight_tiny")
    for name in ["adamw", "muon"]:
        other = build()
        tensors[name + "_losses"] = common.train(name, fill(other), lambda: run(other, ids)[1])
    facts = {
        "routing_margin": margin,
        "logits_std": logits.std().item(),
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, fp32, eager attention",
    }
    common.write(label, tensors, config | {"architectures": [type(model).__name__]}, facts)
    print("   ", loss.item(), "adamw", tensors["adamw_losses"][-1], "muon", tensors["muon_losses"][-1])


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(2)
    for name in sys.argv[1:] or CONFIGS:
        make(name)
