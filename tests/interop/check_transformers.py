#!/usr/bin/env python3
"""transformers opens every folder that the program writes, and continues a prompt as the program does.

    python3 tests/interop/check_transformers.py PROGRAM

For each published class: `moonlight init` writes a small model with random weights, a trained tokenizer is put beside
it, and AutoModelForCausalLM and AutoTokenizer open the folder without a warning or a missing, unexpected or mismatched
weight.  Ids of texts, the greedy continuation of a prompt with its log-probabilities, and its text must be the same.
The same for checkpoints of short pretraining runs.  Needs torch, transformers and tokenizers.  Prints one line per
comparison and ends with status 1 when any differs.
"""
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers

PROMPT = "Once upon a time"
N_NEW = 16
# Both sides compute in fp32 from the same weights, and logits of size 1 to 10 then agree to about 1e-5; two tokens
# closer than this in one of them may change places in the other.
TOLERANCE = 1e-3
# With bf16 weights the program rounds to bf16 what meets them, which may move a token to another expert: it may be a few
# times as far from fp32 as transformers is when it computes in bf16, whose rounding errors are others (mostly: a tenth).
TEXTS = ["Lily and Tom went to the park.\n\nIt's 3 o'clock!", "na\u00efve \u4f60\u597d \U0001f600\t  x", " ", "[EOS]"]
KEYS = {"text": str, "ids": list, "logprobs": list, "finish_reason": str, "prompt_tokens": int,
        "completion_tokens": int, "seconds": float, "prefill_seconds": float, "decode_seconds": float}

# Random weights of this size give logits that are far enough apart to be compared.
COMMON = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "init": "normal",
          "initializer_range": 0.2, "max_position_embeddings": 128, "bos_token_id": 2, "eos_token_id": 3,
          "pad_token_id": 1}
GQA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rotary_dim": 16}
EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
DENSE = {**COMMON, **GQA, "first_k_dense_replace": 3}
MLA = {**COMMON, **EXPERTS, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 24,
       "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "rotary_dim": 8, "v_head_dim": 12}
YARN = {"yarn_factor": 4, "yarn_original_positions": 32, "yarn_mscale": 1, "yarn_mscale_all_dim": 0.5}
GLM = {**COMMON, **GQA, **EXPERTS, "scoring": "sigmoid", "qk_norm": "on", "rope_interleaved": "off", "rotary_dim": 8,
       "first_k_dense_replace": 1, "tie_word_embeddings": "off"}

# name, class, preset, what differs from it
MODELS = [
    ("deepseek", "DeepseekV3ForCausalLM", "moonlight-tiny", MLA),
    ("deepseek-qlora-groups", "DeepseekV3ForCausalLM", "moonlight-tiny",
     {**MLA, "q_lora_rank": 20, "n_group": 4, "topk_group": 2, "tie_word_embeddings": "on"}),
    ("deepseek-yarn", "DeepseekV3ForCausalLM", "moonlight-tiny", {**MLA, **YARN}),
    ("deepseek-half-split-no-bias", "DeepseekV3ForCausalLM", "moonlight-tiny",
     {**MLA, "rope_interleaved": "off", "correction_bias": "off", "n_shared_experts": 1}),
    ("deepseek-v2", "DeepseekV2ForCausalLM", "moonlight-tiny",
     {**MLA, "scoring": "softmax", "norm_topk_prob": "off", "routed_scaling_factor": 1, "correction_bias": "off"}),
    ("deepseek-v2-groups", "DeepseekV2ForCausalLM", "moonlight-tiny",
     {**MLA, "scoring": "softmax", "norm_topk_prob": "off", "routed_scaling_factor": 16, "correction_bias": "off",
      "n_group": 4, "topk_group": 2, "group_by_best": "on"}),
    ("ernie", "Ernie4_5_MoeForCausalLM", "nano-moe", {**COMMON, **GQA, **EXPERTS}),
    ("ernie-dense-first", "Ernie4_5_MoeForCausalLM", "nano-moe",
     {**COMMON, **GQA, **EXPERTS, "first_k_dense_replace": 1, "n_shared_experts": 2, "tie_word_embeddings": "off"}),
    ("ernie-no-shared", "Ernie4_5_MoeForCausalLM", "nano-moe", {**COMMON, **GQA, **EXPERTS, "n_shared_experts": 0}),
    ("glm", "Glm4MoeForCausalLM", "nano-moe", GLM),
    ("glm-groups-bias", "Glm4MoeForCausalLM", "nano-moe",
     {**GLM, "n_group": 2, "topk_group": 1, "attention_bias": "on", "correction_bias": "on", "qk_norm": "off",
      "routed_scaling_factor": 1.5, "first_k_dense_replace": 0, "rotary_dim": 16}),
    ("qwen2", "Qwen2ForCausalLM", "qwen-toy", DENSE),
    ("qwen2-yarn", "Qwen2ForCausalLM", "qwen-toy", {**DENSE, **YARN, "yarn_mscale_all_dim": 0}),
    ("qwen3", "Qwen3ForCausalLM", "qwen-toy", {**DENSE, "qk_norm": "on", "attention_bias": "off"}),
    ("llama", "LlamaForCausalLM", "qwen-toy", {**DENSE, "attention_bias": "off", "tie_word_embeddings": "off"}),
    ("llama3", "LlamaForCausalLM", "qwen-toy",
     {**DENSE, "attention_bias": "off", "llama3_factor": 8, "llama3_original_positions": 16}),
    ("llama-tied", "LlamaForCausalLM", "qwen-toy", {**DENSE, "attention_bias": "off", "head_dim": 24, "rotary_dim": 24}),
]

failures = 0


class Complaints(logging.Handler):
    """With Complaints() as c: everything that transformers and Python warn about goes to c.messages."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []
        self.caught = warnings.catch_warnings(record=True)

    def emit(self, record):
        self.messages.append(record.getMessage())

    def __enter__(self):
        logging.getLogger("transformers").addHandler(self)
        self.recorded = self.caught.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(self, *exception):
        self.caught.__exit__(*exception)
        logging.getLogger("transformers").removeHandler(self)
        self.messages += [str(w.message) for w in self.recorded]


def check(what, ok, detail=""):
    global failures
    failures += not ok
    print(("ok      " if ok else "DIFFERS ") + what, detail, flush=True)


def run(program, *arguments, text=None):
    done = subprocess.run([program, *map(str, arguments)], input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: status {done.returncode}\n{done.stderr.decode()}")
    return done.stdout.decode()


def settings(values):
    return [word for key, value in values.items() for word in (f"--model.{key}", value)]


def generate(program, folder, *options):
    out = run(program, "generate", "--model", folder, "--prompt", PROMPT, "--temperature", 0, "--max-tokens", N_NEW,
              "--json", "--kv-cache-type", "f32", *options)
    return json.loads(out.splitlines()[-1])


def check_json(name, result, prompt, eos):
    """Every documented key of `generate --json`."""
    right = {key: type(result.get(key)) for key in KEYS} == KEYS and set(result) == set(KEYS)
    n = len(result["ids"])
    right &= n == len(result["logprobs"]) == result["completion_tokens"] and 0 < n <= N_NEW
    right &= result["prompt_tokens"] == len(prompt)
    right &= result["finish_reason"] == ("stop" if result["ids"][-1] == eos else "length")
    right &= eos not in result["ids"][:-1] and (n == N_NEW or result["ids"][-1] == eos)
    right &= all(p <= 0 for p in result["logprobs"])
    right &= abs(result["seconds"] - result["prefill_seconds"] - result["decode_seconds"]) < 1e-9
    check(f"{name}: keys of --json", right, "" if right else result)


def open_folder(name, folder, dtype):
    """-> model, tokenizer; reports all that transformers complains about."""
    with Complaints() as complaints:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    check(f"{name}: opened whole", not wrong, wrong or "")
    check(f"{name}: opened without warnings", not complaints.messages, complaints.messages or "")
    return model.eval(), tokenizer


def compare_ids(name, program, folder, tokenizer):
    for text in TEXTS:
        out = run(program, "tokenizer", "encode", "--tokenizer", folder, "--special", "--json", text=text.encode())
        ours = json.loads(out.splitlines()[-1])["ids"]
        theirs = tokenizer(text, add_special_tokens=False).input_ids
        check(f"{name}: ids of {text!r}", ours == theirs, "" if ours == theirs else f"{ours} {theirs}")


def compute_logprobs(model, ids, n_prompt):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, n_prompt - 1:-1].double(), -1)


def compare_generation(name, model, as_stored, tokenizer, result, prompt):
    """The program's ids one after the other, each the likeliest of transformers' logits, or as likely within tolerance."""
    n_equal, worst, close = 0, 0.0, ""
    tolerance = TOLERANCE
    logprobs = compute_logprobs(model, prompt + result["ids"], len(prompt))
    if as_stored.dtype == torch.bfloat16:
        likely = logprobs > -5
        rounded = compute_logprobs(as_stored, prompt + result["ids"], len(prompt))
        tolerance = 4 * (logprobs - rounded)[likely].abs().max().item()
    for id, logprob, row in zip(result["ids"], result["logprobs"], logprobs):
        if row.max() - row[id] > tolerance:
            check(f"{name}: continuation", False, f"{id} after {n_equal} tokens, expected {row.argmax().item()}, likelier by {row.max() - row[id]:.1e}")
            return
        worst = max(worst, abs(row[id].item() - logprob))
        if row.argmax() != id:
            close = ", then two that are equally likely"
        n_equal += not close
    check(f"{name}: log-probabilities", worst <= tolerance, f"largest difference {worst:.1e} of {tolerance:.1e}")
    check(f"{name}: continuation", n_equal * 2 >= len(result["ids"]) or tolerance > TOLERANCE, f"{n_equal} tokens{close}")
    with Complaints() as complaints:
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=N_NEW)
    theirs = output[0, len(prompt):].tolist()
    equal = theirs[:n_equal] == result["ids"][:n_equal] and (close or len(theirs) == n_equal)
    check(f"{name}: generate()", equal, "" if equal else f"{theirs} {result['ids']}")
    check(f"{name}: generate() without warnings", not complaints.messages, complaints.messages or "")
    text = tokenizer.decode(result["ids"], skip_special_tokens=True)
    check(f"{name}: text", text == result["text"], "" if text == result["text"] else f"{text!r} {result['text']!r}")


def compare_folder(name, program, folder, wanted_class, stored):
    """Everything about one folder; -> what the program generated."""
    config = json.loads((folder / "config.json").read_text())
    check(f"{name}: class", config["architectures"] == [wanted_class], config["architectures"])
    model, tokenizer = open_folder(name, folder, torch.float32)
    check(f"{name}: class opened", type(model).__name__ == wanted_class)
    # From what the file says: the type of the stored matrices.
    as_stored = transformers.AutoModelForCausalLM.from_pretrained(folder)
    check(f"{name}: stored type", as_stored.get_input_embeddings().weight.dtype == stored, stored)
    compare_ids(name, program, folder, tokenizer)
    prompt = [tokenizer.bos_token_id] + tokenizer(PROMPT, add_special_tokens=False).input_ids
    result = generate(program, folder)
    check_json(name, result, prompt, config["eos_token_id"])
    compare_generation(name, model, as_stored, tokenizer, result, prompt)
    return result


def compare_fresh(program, work):
    results = {}
    for name, wanted_class, preset, values in MODELS:
        run(program, "init", preset, work / name, *settings(values))
        shutil.copytree(work / "tokenizer", work / name, dirs_exist_ok=True)
        results[name] = compare_folder(name, program, work / name, wanted_class, torch.float32)
    # An end-of-sequence id that comes early stops both.
    name, wanted_class, preset, values = MODELS[0]
    eos = results[name]["ids"][4]
    stopped = work / "stopped"
    run(program, "init", preset, stopped, *settings({**values, "eos_token_id": eos}))
    shutil.copytree(work / "tokenizer", stopped, dirs_exist_ok=True)
    result = compare_folder("stopped", program, stopped, wanted_class, torch.float32)
    check("stopped: early", result["finish_reason"] == "stop" and result["ids"] == results[name]["ids"][:5])
    for dtype, stored in ("bf16", torch.bfloat16), ("f16", torch.float16):
        folder = work / dtype
        run(program, "init", preset, folder, "--dtype", dtype, *settings(values))
        shutil.copytree(work / "tokenizer", folder, dirs_exist_ok=True)
        compare_folder(dtype, program, folder, wanted_class, stored)


def compare_converted(program, work):
    """Folders that were GGUF files in between: the same weights, or those of another type."""
    for name, wanted_class, preset, values in MODELS:
        if name == "deepseek-half-split-no-bias":  # which GGUF cannot say
            continue
        for mix, options, stored in ("f32", [], torch.float32), ("q8_0", ["--dtype", "bf16"], torch.bfloat16):
            if mix != "f32" and name not in ("deepseek", "ernie", "glm", "llama"):
                continue
            file, back = work / f"{name}-{mix}.gguf", work / f"{name}-{mix}-back"
            run(program, "convert", work / name, file, "--quant", mix)
            run(program, "convert", file, back, *options)
            compare_folder(f"{name} by way of {mix} in GGUF", program, back, wanted_class, stored)
            file.unlink()
            shutil.rmtree(back)


RECIPE = """[data]
dir = {work}/data
text = {work}/stories.txt
tokenizer = {work}/tokenizer
[train]
steps = 3
batch = 2
seq = 64
[optim]
lr = 0.02
warmup = 1
[eval]
windows = 2
"""


def compare_trained(program, work):
    (work / "recipe.ini").write_text(RECIPE.format(work=work))
    for name, wanted_class, preset, values in MODELS:
        if name not in ("deepseek-qlora-groups", "ernie", "glm", "qwen3"):
            continue
        for dtype, stored in ("f32", torch.float32), ("bf16", torch.bfloat16):
            folder = work / f"run-{name}-{dtype}"
            bias = {"bias_update_rate": 0.05} if name.startswith("deepseek") else {}
            run(program, "pretrain", work / "recipe.ini", "--run", folder, "--checkpoint.dtype", dtype,
                "--model.preset", preset, *settings({**values, **bias}))
            steps = sorted(folder.glob("step_*"))
            check(f"trained {name} {dtype}: one checkpoint", len(steps) == 1, [s.name for s in steps])
            compare_folder(f"trained {name} {dtype}", program, steps[-1], wanted_class, stored)


def main(program):
    program = os.path.abspath(program)
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        run(program, "data", "synth", "stories", "--bytes", 200000, "--out", work / "stories.txt")
        special = [w for s in ("[UNK]", "[PAD]", "[BOS]", "[EOS]") for w in ("--special", s)]
        run(program, "tokenizer", "train", work / "stories.txt", "--vocab-size", 512, "--out", work / "tokenizer",
            *special)
        compare_fresh(program, work)
        compare_converted(program, work)
        compare_trained(program, work)
    print(f"{failures} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
