#!/usr/bin/env python3
"""llama.cpp opens every GGUF file that the program writes, and continues a prompt as the program does.

    MOONLIGHT_LLAMA_CPP=FOLDER python3 tests/interop/check_llama_cpp.py PROGRAM

FOLDER has llama.cpp's programs (llama-simple).  For each architecture: `moonlight init` writes a small model with random
weights, `moonlight convert` makes a GGUF file of it, and llama-simple's greedy continuation has the bytes of the
program's own.  Prints one line per comparison and ends with status 1 when any differs, 77 without llama.cpp.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROMPT = "Once upon a time"
# llama-simple keeps keys and values as halves and rounds on its way, so that two tokens that are nearly as likely, or two
# experts, may change places; this program with --kv-cache-type f32 and f16 differs from itself as often.  So the first
# few tokens are compared, and of N_SEED sets of random weights two must give all of them alike: what computes something
# else agrees on none (a continuation of 12 tokens of 512 does not come by chance).
N_SEED, N_SAME = 8, 2
N_NEW = 12

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

# name, preset, what differs from it, options of convert
MODELS = [
    ("moonlight-27-layers", "moonlight-tiny", {**MLA, "num_hidden_layers": 27, "n_routed_experts": 64,
                                               "num_experts_per_tok": 6}, []),
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


def continue_here(program, model, work):
    out = run(program, "generate", "--model", model, "--prompt", PROMPT, "--temperature", 0, "--max-tokens", N_NEW,
              "--json")
    ids = json.loads(out.splitlines()[-1])["ids"]
    return ids, run(program, "tokenizer", "decode", "--tokenizer", work / "tokenizer", *ids).removesuffix(b"\n")


def continue_there(llama, model):
    out = run(llama, "-m", model, "-n", N_NEW, PROMPT)  # which puts [BOS] before it, as the file says
    begin = ("[BOS]" + PROMPT).encode()
    if not out.startswith(begin):
        raise SystemExit(f"{model}: llama-simple begins with {out[:40]!r}")
    return out.removeprefix(begin).removesuffix(b"\n")


def compare_once(program, llama, work, name, preset, values, options, seed):
    """-> whether llama.cpp continues as the program does."""
    folder = init(program, work, name, preset, values, seed)
    file = work / f"{name}.gguf"
    run(program, "convert", folder, file, *options)
    ids, ours = continue_here(program, folder, work)
    if not options:  # the same numbers in another file
        check(f"{name} {seed}: the program, from both", continue_here(program, file, work)[0] == ids)
    else:
        ours = continue_here(program, file, work)[1]
    theirs = continue_there(llama, file)
    if seed == 0:
        back = work / f"{name}-again.gguf"
        run(program, "convert", file, back)
        check(f"{name}: written again", back.read_bytes() == file.read_bytes())
        back.unlink()
    shutil.rmtree(folder)
    file.unlink()
    return ours == theirs


def compare(program, llama, work, name, preset, values, options):
    n_same = n_tried = 0
    while n_tried < N_SEED and n_same < N_SAME:
        n_same += compare_once(program, llama, work, name, preset, values, options, n_tried)
        n_tried += 1
    check(f"{name}: continuation", n_same == N_SAME, f"the same with {n_same} of {n_tried} sets of weights")


def main():
    where = os.environ.get("MOONLIGHT_LLAMA_CPP")
    llama = shutil.which("llama-simple", path=where) if where else None
    if not llama:
        print("skipped: no llama.cpp: MOONLIGHT_LLAMA_CPP names the folder of llama-simple")
        sys.exit(77)
    program = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="moonlight-llama-cpp-") as folder:
        work = pathlib.Path(folder)
        run(program, "data", "synth", "stories", "--out", work / "stories.txt", "--bytes", "200k")
        run(program, "tokenizer", "train", work / "stories.txt", "--out", work / "tokenizer", "--vocab-size", 512,
            "--special", "[UNK]", "--special", "[PAD]", "--special", "[BOS]", "--special", "[EOS]")
        for model in MODELS:
            compare(program, llama, work, *model)
        for name, preset, values, mix in QUANTISED:
            source = init(program, work, name, preset, values)
            file = work / f"{mix}.gguf"
            run(program, "convert", source, file, "--quant", mix)
            check(f"{name} {mix}: opened", len(continue_there(llama, file)) > 0)
            shutil.rmtree(source)
            file.unlink()
    print(f"{failures} comparisons differ" if failures else "all the same")
    sys.exit(failures > 0)


main()
