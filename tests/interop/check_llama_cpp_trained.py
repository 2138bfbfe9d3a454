#!/usr/bin/env python3
"""llama.cpp continues trained models as the program does: greedy tokens and their log-probabilities.

    MOONLIGHT_LLAMA_CPP_PYTHON=PYTHON python3 tests/interop/check_llama_cpp_trained.py PROGRAM

PYTHON is a Python that has llama-cpp-python.  Random weights make nearly flat predictions, where any rounding changes
the likeliest token; so small models are trained here first, a minute or so each, on the built-in stories.  Each is
converted to GGUF in several types.  The program continues every prompt by 120 tokens; llama.cpp then reads prompt and
continuation token by token, and at each place its likeliest token must be the program's.  Another one is accepted only
where its two largest logits are closer than the bound of the type, and no log-probability may differ by more than
that (of block types: one in a hundred may).  Both keep keys and values in fp32, and with fp32 weights in halves as well, as both do unless told otherwise.
Prints a line per file and ends with status 1 when anything differs, 77
without llama-cpp-python.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

from llama_cpp_there import LlamaCpp, run_inside

PROMPTS = ["Once upon a time", "One day, Tom and his dog", "The little girl was sad because", "Mom said:",
           "There was a big tree in the garden."]
N_NEW = 120

# What a type may move a logit by.  f32: the order of sums (seen through 27 layers: 5e-5).  f16: llama.cpp rounds
# activations to f16 where weights are f16 (seen: 0.12; 4e-5 when the same numbers are stored as f32).  Blocks: both round
# activations to 8 bits, in ways of their own (seen: 0.25).  A wrong rotation, scale or expert moves logits by whole numbers.
BOUND = {"f32": 1e-3, "f16": 0.25, "q8_0": 0.5, "q4_k": 0.5}
# Share of the tokens whose log-probabilities may be further apart: 8-bit activations bring a token to another expert now
# and then (seen: 0.64 for one of 600 tokens, where the program is 0.67 from products with fp32 activations).
FAR = {"q8_0": 0.01, "q4_k": 0.01}
# Halves as keys and values, on both sides, and llama.cpp's sums of values in halves.
BOUND_CACHE = 0.25
# Mean probability of the continuations: flat predictions would compare rounding, 1 / 512 is untrained.
PEAKED = 0.25

COMMON = {"vocab_size": 512, "max_position_embeddings": 256, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 2}
MLA = {**COMMON, **EXPERTS, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 32,
       "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "rotary_dim": 16, "v_head_dim": 32}
GQA = {**COMMON, **EXPERTS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rotary_dim": 32}

# name, preset, what differs from it, steps, types
MODELS = [
    ("moonlight-27-layers", "moonlight-tiny",
     {**MLA, "num_hidden_layers": 27, "hidden_size": 64, "intermediate_size": 192, "moe_intermediate_size": 32,
      "n_routed_experts": 16, "num_experts_per_tok": 4}, 250, ["f32", "f16", "q8_0"]),
    ("moonlight-256-wide", "moonlight-tiny",
     {**MLA, "kv_lora_rank": 256, "num_hidden_layers": 3, "hidden_size": 256, "intermediate_size": 512,
      "moe_intermediate_size": 96}, 200, ["f32", "f16", "q8_0", "q4_k"]),
    ("ernie-256-wide", "nano-moe",
     {**GQA, "num_hidden_layers": 3, "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 256}, 200,
     ["f32", "f16", "q8_0", "q4_k"]),
]

RECIPE = """[data]
dir = {data}
bytes = 3m
vocab_size = 512

[train]
steps = {steps}
batch = 8
seq = 96

[optim]
name = muon
lr = 1e-2
warmup = 20
schedule = linear

[eval]
every = 1000

[checkpoint]
every = 1000
"""

failures = 0


def check(what, ok, detail):
    global failures
    failures += not ok
    print(("ok      " if ok else "DIFFERS ") + what, detail, flush=True)


def run(*arguments):
    done = subprocess.run([*map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: status {done.returncode}\n{done.stderr.decode()}")
    return done.stdout


def train(program, work, name, preset, values, steps):
    recipe = work / f"{name}.ini"
    recipe.write_text(RECIPE.format(data=work / "data", steps=steps))
    settings = [word for key, value in values.items() for word in (f"--model.{key}", value)]
    run(program, "pretrain", recipe, "--run", work / name, "--model.preset", preset, *settings)
    return work / name


def continue_here(program, file, prompt, cache):
    out = json.loads(run(program, "generate", "--model", file, "--prompt", prompt, "--temperature", 0, "--max-tokens",
                         N_NEW, "--kv-cache-type", cache, "--json").splitlines()[-1])
    return out["ids"], out["logprobs"]


def compare(program, name, dtype, cache, file):
    """Every prompt: tokens that differ, those of them where the likeliest two are far apart, and log-probabilities."""
    there, n, n_other, n_wrong, n_far, worst, confidence = LlamaCpp(file, cache), 0, 0, 0, 0, 0.0, 0.0
    bound = BOUND[dtype] if cache == "f32" else max(BOUND[dtype], BOUND_CACHE)
    for prompt in PROMPTS:
        ids, logprobs = continue_here(program, file, prompt, cache)
        other, wrong, differences, sum_of_probabilities = there.compare(prompt, ids, logprobs, bound)
        n_other += other
        n_wrong += wrong
        n_far += int((differences >= bound).sum())
        worst = max(worst, differences[-1])
        confidence += sum_of_probabilities
        n += len(ids)
    check(f"{name} {dtype}, cache {cache}", n_wrong == 0 and n_far <= FAR.get(dtype, 0) * n and n >= 100 * len(PROMPTS) and
          confidence / n > PEAKED,
          f"{n} tokens of mean probability {confidence / n:.2f}: {n_other} others, {n_wrong} where the likeliest two are "
          f"{bound} apart; log-probabilities within {worst:.1e}, {n_far} beyond {bound}")


def main():
    run_inside()
    program = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="moonlight-llama-cpp-") as folder:
        work = pathlib.Path(folder)
        for name, preset, values, steps, types in MODELS:
            trained = train(program, work, name, preset, values, steps)
            for dtype in types:
                file = work / f"{name}-{dtype}.gguf"
                how = ["--dtype", dtype] if dtype in ("f32", "f16") else ["--quant", dtype]
                run(program, "convert", trained, file, *how)
                compare(program, name, dtype, "f32", file)
                if dtype == "f32":
                    compare(program, name, dtype, "f16", file)
    print(f"{failures} comparisons differ" if failures else "all the same")
    sys.exit(failures > 0)


main()
