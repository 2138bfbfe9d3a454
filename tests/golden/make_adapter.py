"""Golden files of adapters: python make_adapter.py   (see README.md)

LoRA and DoRA by the PEFT library on models of transformers, and of routed experts by hand on reference.py; all in
double precision, so that what differs is the other side's rounding alone."""

import numpy as np
import peft
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import common
import make_transformers as hf
import make_tuning
import reference

RANK, ALPHA = 3, 6
# Of mlp.* the library would wrap the routed experts of all layers as one parameter.
TARGETS = {
    "deepseek_yarn": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"],
}


def value(module, kind, shape):
    """A, B, or what the magnitudes are multiplied with."""
    base, std = {"a": (0.0, shape[-1] ** -0.5), "b": (0.0, 0.1), "m": (1.0, 0.1)}[kind]
    return torch.from_numpy(common.formula(f"{module}.{kind}", shape, base, std)).double()


def by_peft(label, dora):
    config = hf.CONFIGS[label]
    build = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(build, attn_implementation="eager", experts_implementation="eager").eval()
    hf.fill(model)
    margins = hf.watch_margins(model, config)
    margin, ids = hf.choose_ids(model, "adapter." + label, config["vocab_size"], margins)
    model = model.double()
    lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, use_dora=dora, target_modules=TARGETS[label], bias="none")
    model = peft.get_peft_model(model, lora)
    params = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" not in name:
                continue
            module = name.removeprefix("base_model.model.").split(".lora_")[0]
            kind = "a" if "lora_A" in name else "b" if "lora_B" in name else "m"
            v = value(module, kind, tuple(p.shape))
            p.copy_(p * v if kind == "m" else v)
            params[f"{module}.{kind}"] = p
    _, loss = hf.run(model, ids)
    loss.backward()
    prefix = "dora" if dora else "lora"
    tensors = {"ids": ids.numpy().astype(np.int32), "seq": np.cumsum([0] + hf.LENGTHS).astype(np.int32)}
    tensors |= {f"{prefix}.loss": np.array([loss.item()])}
    tensors |= {f"{prefix}.grad.{k}": p.grad.numpy().astype(np.float32) for k, p in params.items()}
    return tensors, margin, config | {"architectures": [type(model.base_model.model).__name__]}


def of_experts():
    """Every matrix of attention, shared and routed experts; the loss with both auxiliary ones."""
    c = make_tuning.CONFIG
    best = (-1.0, None)
    for attempt in range(10):
        ids = common.make_ids(f"adapter.{attempt}", 40, c["vocab_size"])
        with torch.no_grad():
            margin = min(reference.losses(make_tuning.make_weights(""), c, ids, hf.LENGTHS)[2]["margin"])
        best = max(best, (margin, ids), key=lambda x: x[0])
    margin, ids = best
    tensors = {"ids": ids.numpy().astype(np.int32), "seq": np.cumsum([0] + hf.LENGTHS).astype(np.int32)}
    return tensors | beside_experts(c, ids, False) | beside_experts(c, ids, True), margin, c


def beside_experts(c, ids, dora):
    """Loss and gradients of the terms of every matrix; with dora each row times m / norm, the norm a constant."""
    weights = {k: t.detach() for k, t in make_tuning.make_weights("").items()}
    params = {}
    for name, shape in reference.shapes(c).items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj"):
            continue
        a, b = (value(module, k, s).requires_grad_(True) for k, s in [("a", (RANK, shape[1])), ("b", (shape[0], RANK))])
        params |= {f"{module}.a": a, f"{module}.b": b}
        merged = weights[name] + ALPHA / RANK * b @ a
        if dora:
            m = (weights[name].norm(dim=1) * value(module, "m", (shape[0],))).requires_grad_(True)
            params[f"{module}.m"] = m
            merged = (m / merged.norm(dim=1).detach())[:, None] * merged
        weights[name] = merged
    loss = reference.losses(weights, c, ids, hf.LENGTHS)[0]
    loss["total"].backward()
    prefix = "dora" if dora else "lora"
    tensors = {f"{prefix}.loss": np.array([loss["ce"].item()])}
    return tensors | {f"{prefix}.grad.{k}": p.grad.numpy().astype(np.float32) for k, p in params.items()}


def facts(margin):
    return {"routing_margin": margin, "made_by": f"torch {torch.__version__}, peft {peft.__version__}, fp64"}


def main():
    for label in TARGETS:
        lora, margin, config = by_peft(label, False)
        dora, _, _ = by_peft(label, True)
        common.write("adapter_" + label, lora | dora, config, facts(margin))
    tensors, margin, config = of_experts()
    common.write("adapter_experts", tensors, config, facts(margin))


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(2)
    main()
