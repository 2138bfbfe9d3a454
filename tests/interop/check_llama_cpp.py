#!/usr/bin/env python3
"""llama.cpp opens every GGUF file that the program writes, and continues a prompt as the program does.

    MOONLIGHT_LLAMA_CPP_PYTHON=PYTHON python3 tests/interop/check_llama_cpp.py PROGRAM

PYTHON is a Python that has llama-cpp-python.  For each architecture and several seeds `moonlight init` writes a small
model with random weights, and `moonlight convert` makes a GGUF file of it.  llama.cpp cuts the prompt into the same
tokens, reads it and the program's greedy continuation, and finds the same token the likeliest at each place, with the
same log-probability.  Both keep keys and values in fp32; with halves (what both take unless told otherwise) random
weights cannot be compared: check_llama_cpp_trained.py does that.  Prints one line per comparison and ends with status 1
when any differs, 77 without llama-cpp-python.
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from llama_cpp_there import LlamaCpp, run_inside

PROMPT = "Once upon a time"
N_NEW = 12
N_SEED = {"moonlight-27-layers": 8}
OTHER_SEEDS = 3
# Another token is accepted where llama.cpp's likeliest two are closer than this, which also bounds what log-probabilities
# may differ by.  With fp32 on both sides that is the order of sums and, with latent attention, an epsilon of 1e-6 in the
# latents' norms there where llama.cpp has the model's 1e-5 (docs/formats.md): seen 1e-4, with the same epsilon 3e-6.
BOUND = 1e-3
# f16 weights: llama.cpp rounds activations to halves before it multiplies (seen: 0.007).
BOUND_F16 = 0.05

COMMON = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "init": "normal",
          "initializer_range": 0.2, "max_position_embeddings": 128, "bos_token_id": 2, "eos_token_id": 3,
          "pad_token_id": 1}
GQA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rotary_dim": 16}
EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
DENSE = {**COMMON, **GQA, "first_k_dense_replace": 3}
MLA = {**COMMON, **EXPERTS, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 32,
       "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "rotary_dim": 8, "v_head_dim": 16, "initializer_range": 0.125}
YARN = {"yarn_factor": 4, "yarn_original_positions": 32}
GLM = {**COMMON, **GQA, **EXPERTS, "scoring": "sigmoid", "qk_norm": "on", "rope_interleaved": "off", "rotary_dim": 8,
       "first_k_dense_replace": 1, "tie_word_embeddings": "off"}
WIDE = {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 96, "initializer_range": 0.1}

DEEP = {**MLA, "num_hidden_layers": 27, "n_routed_experts": 64, "num_experts_per_tok": 6}

# name, preset, what differs from it, options of convert
MODELS = [
    ("moonlight-27-layers", "moonlight-tiny", DEEP, []),
    ("moonlight-27-layers-same-epsilon", "moonlight-tiny", {**DEEP, "rms_norm_eps": 1e-6}, []),
    ("deepseek", "moonlight-tiny", MLA, []),
    ("deepseek-qlora", "moonlight-tiny", {**MLA, "q_lora_rank": 32, "tie_word_embeddings": "on"}, []),
    ("deepseek-groups", "moonlight-tiny", {**MLA, "n_group": 4, "topk_group": 2}, []),
    ("deepseek-yarn", "moonlight-tiny", {**MLA, **YARN, "yarn_mscale": 1, "yarn_mscale_all_dim": 1}, []),
    ("deepseek-yarn-same-mscale", "moonlight-tiny",
     {**MLA, **YARN, "yarn_mscale": 0.7, "yarn_mscale_all_dim": 0.7}, []),
    ("deepseek-softmax", "moonlight-tiny", {**MLA, "scoring": "softmax", "norm_topk_prob": "off",
                                            "routed_scaling_factor": 1, "correction_bias": "off"}, []),
    ("ernie", "nano-moe", {**COMMON, **GQA, **EXPERTS}, []),
    ("ernie-dense-first", "nano-moe", {**COMMON, **GQA, **EXPERTS, "first_k_dense_replace": 1, "n_shared_experts": 2,
                                       "tie_word_embeddings": "off"}, []),
    ("ernie-no-shared", "nano-moe", {**COMMON, **GQA, **EXPERTS, "n_shared_experts": 0}, []),
    ("glm", "nano-moe", GLM, []),
    ("glm-bias", "nano-moe", {**GLM, "attention_bias": "on", "correction_bias": "on", "qk_norm": "off",
                              "routed_scaling_factor": 1.5, "first_k_dense_replace": 0, "rotary_dim": 16}, []),
    ("qwen2", "qwen-toy", DENSE, []),
    ("qwen2-yarn", "qwen-toy", {**DENSE, **YARN, "yarn_mscale_all_dim": 0}, []),
    ("qwen3", "qwen-toy", {**DENSE, "qk_norm": "on", "attention_bias": "off"}, []),
    ("llama", "qwen-toy", {**DENSE, "attention_bias": "off", "tie_word_embeddings": "off"}, []),
    ("llama-tied", "qwen-toy", {**DENSE, "attention_bias": "off", "head_dim": 24, "rotary_dim": 24}, []),
    ("llama3", "qwen-toy", {**DENSE, "attention_bias": "off", "llama3_factor": 8, "llama3_original_positions": 16}, []),
    ("llama-f16", "qwen-toy", {**DENSE, "attention_bias": "off", "tie_word_embeddings": "off"}, ["--dtype", "f16"]),
]

# Opened and run; their continuations may differ, since each side rounds activations in its own way (llama.cpp to bf16
# where weights are).
QUANTISED = [("deepseek", "moonlight-tiny", {**MLA, **WIDE}, mix) for mix in
             ("bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k", "q5_1", "q5_0", "q4_0")]

failures = 0


def check(what, ok, detail=""):
    global failures
    failures += not ok
    print(("ok      " if ok else "DIFFERS ") + what, detail, flush=True)


def run(*arguments, text=None):
    done = subprocess.run([*map(str, arguments)], input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: status {done.returncode}\n{done.stderr.decode()}")
    return done.stdout


def init(program, work, name, preset, values, seed=0):
    folder = work / f"{name}-{seed}"
    settings = [word for key, value in values.items() for word in (f"--model.{key}", value)]
    run(program, "init", preset, folder, "--seed", seed, *settings)
    shutil.copytree(work / "tokenizer", folder, dirs_exist_ok=True)
    return folder


def continue_here(program, model):
    out = run(program, "generate", "--model", model, "--prompt", PROMPT, "--temperature", 0, "--max-tokens", N_NEW,
              "--kv-cache-type", "f32", "--json")
    out = json.loads(out.splitlines()[-1])
    ended = out["finish_reason"] != "length"
    return out["ids"], out["logprobs"], ended


def read_there(file):
    """-> [1, vocabulary]: logits after the prompt"""
    there = LlamaCpp(file)
    return there.logits_after(there.tokens_of(PROMPT), 1)


def compare_seed(program, work, name, preset, values, options, seed):
    folder = init(program, work, name, preset, values, seed)
    file = work / f"{name}.gguf"
    run(program, "convert", folder, file, *options)
    ids, logprobs, ended = continue_here(program, file)
    if not options:  # the same numbers in another file
        check(f"{name} {seed}: the program, from both", continue_here(program, folder)[0] == ids)
    there = LlamaCpp(file)
    prompt = json.loads(run(program, "tokenizer", "encode", "--tokenizer", folder, "--json", text=PROMPT.encode()))["ids"]
    check(f"{name} {seed}: tokens of the prompt", there.tokens_of(PROMPT)[-len(prompt):] == prompt)
    bound = BOUND_F16 if "f16" in options else BOUND
    n_other, n_wrong, differences, _ = there.compare(PROMPT, ids, logprobs, bound)
    worst = differences[-1]
    check(f"{name} {seed}: continuation", (ended or len(ids) == N_NEW) and n_wrong == 0 and worst < bound,
          f"{n_other} of {len(ids)} tokens differ, {n_wrong} where the likeliest two are {bound} apart; "
          f"log-probabilities within {worst:.1e}")
    if seed == 0:
        back = work / f"{name}-again.gguf"
        run(program, "convert", file, back)
        check(f"{name}: written again", back.read_bytes() == file.read_bytes())
        back.unlink()
    shutil.rmtree(folder)
    file.unlink()


def compare_set(program, work):
    """A set of files is opened by its first, and means what one file means."""
    name, preset, values, _ = MODELS[2]
    folder = init(program, work, name, preset, values)
    run(program, "convert", folder, work / "whole.gguf")
    run(program, "convert", folder, work / "set.gguf", "--split-max-size", "100k")
    files = sorted(work.glob("set-*.gguf"))
    same = read_there(files[0]).tobytes() == read_there(work / "whole.gguf").tobytes()
    check(f"{name}: a set of {len(files)} files", len(files) > 2 and same)
    shutil.rmtree(folder)
    for path in [work / "whole.gguf", *files]:
        path.unlink()


def main():
    run_inside()
    program = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="moonlight-llama-cpp-") as folder:
        work = pathlib.Path(folder)
        run(program, "data", "synth", "stories", "--out", work / "stories.txt", "--bytes", "200k")
        run(program, "tokenizer", "train", work / "stories.txt", "--out", work / "tokenizer", "--vocab-size", 512,
            "--special", "[UNK]", "--special", "[PAD]", "--special", "[BOS]", "--special", "[EOS]")
        for model in MODELS:
            for seed in range(N_SEED.get(model[0], OTHER_SEEDS)):
                compare_seed(program, work, *model, seed)
        compare_set(program, work)
        for name, preset, values, mix in QUANTISED:
            source = init(program, work, name, preset, values)
            file = work / f"{mix}.gguf"
            run(program, "convert", source, file, "--quant", mix)
            check(f"{name} {mix}: opened", bool(abs(read_there(file)).max() > 0))
            shutil.rmtree(source)
            file.unlink()
    print(f"{failures} comparisons differ" if failures else "all the same")
    sys.exit(failures > 0)


main()
