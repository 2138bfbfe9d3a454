#!/usr/bin/env python3
"""The PEFT library opens adapters that the program trains, and the program opens those that PEFT saves.

    python3 tests/interop/check_peft.py PROGRAM

For a model with latent attention and for one with grouped keys, LoRA and DoRA: a short run of `moonlight sft`, whose
adapter PEFT loads beside the model in transformers without a missing or unexpected weight; then the same adapter with
other values, as PEFT saves it.  Each time the greedy continuation of a prompt and its log-probabilities must be the
same as the program's.  Needs torch, transformers and peft.  Status 1 when any differs, 77 when a package is missing.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

try:
    import peft
    import torch
    import transformers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

PROMPT, N_NEW = "Once upon a time", 12
TOLERANCE = 1e-3  # both compute in fp32; logits of size 1 to 10 then agree to about 1e-5
RECIPE = """
[model]
preset = {preset}
{model}
[data]
dir = {work}/data
bytes = 60k
vocab_size = 300
[train]
steps = 4
batch = 2
seq = 32
[optim]
warmup = 1
[eval]
every = 0
windows = 4
"""
TUNE = """
[init]
from = {work}/pre
[data]
dir = {work}/rows
examples = 20
[train]
steps = 3
batch = 1
seq = 1200
[optim]
name = adamw
lr = 2e-2
warmup_share = 0.4
[eval]
rows = 1
[adapter]
rank = 4
alpha = 8
"""
SMALL = "hidden_size = 32\nnum_hidden_layers = 2\nmoe_intermediate_size = 32\nmax_position_embeddings = 1300\n"
MODELS = {
    "latent": ("moonlight-tiny", SMALL + "intermediate_size = 48\nn_routed_experts = 4\nnum_experts_per_tok = 2\n"),
    "grouped": ("nano-moe", SMALL + "num_attention_heads = 4\nnum_key_value_heads = 2\nhead_dim = 8\nrotary_dim = 8\n"),
}
failures = 0


def moonlight(*arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"moonlight {arguments[0]}: {done.stderr}")
    return done.stdout


def ours(model, *more):
    out = moonlight("generate", "--model", model, "--prompt", PROMPT, "--max-tokens", N_NEW, "--temperature", 0,
                    "--kv-cache-type", "f32", "--json", *more)
    return json.loads(out.splitlines()[-1])


@torch.no_grad()
def differences(model, folder, found):
    """The largest difference of log-probabilities of the tokens that the program chose, and how many it would not."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    all_ids = torch.cat([ids, torch.tensor([found["ids"]])], dim=1)
    logp = model(input_ids=all_ids).logits[0, ids.shape[1] - 1 : -1].float().log_softmax(-1)
    theirs = logp.gather(1, torch.tensor(found["ids"])[:, None])[:, 0]
    worst = (theirs - torch.tensor(found["logprobs"])).abs().max().item()
    beaten = (logp.max(-1)[0] - theirs).max().item()
    return worst, beaten


def compare(what, model, folder, found):
    global failures
    worst, beaten = differences(model, folder, found)
    good = len(found["ids"]) > 0 and worst < TOLERANCE and beaten < TOLERANCE
    failures += not good
    print(f"{'ok' if good else 'FAILED'}: {what}: log-probabilities differ by {worst:.2g}")


def check(label, preset, text):
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (work / "pre.ini").write_text(RECIPE.format(preset=preset, model=text, work=work))
        (work / "tune.ini").write_text(TUNE.format(work=work))
        moonlight("pretrain", work / "pre.ini", "--run", work / "pre")
        folder = work / "pre" / (work / "pre" / "latest").read_text().strip()
        for kind in ["lora", "dora"]:
            run = work / kind
            moonlight("sft", work / "tune.ini", "--adapter.kind", kind, "--run", run)
            step = run / (run / "latest").read_text().strip()
            base = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager",
                                                                     dtype=torch.float32).eval()
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*([Mm]issing|[Uu]nexpected).*")  # keys of the adapter
                model = peft.PeftModel.from_pretrained(base, step).eval()
            compare(f"{label} {kind}, trained here", model, folder, ours(folder, "--adapter", step))
            plain, tuned = ours(folder), ours(folder, "--adapter", step)
            if plain["logprobs"] == tuned["logprobs"]:
                raise SystemExit(f"{label} {kind}: the adapter changes nothing")
            with torch.no_grad():
                for key, p in model.named_parameters():
                    if "lora_B" in key:
                        p.add_(torch.randn_like(p) * 0.05)
            model.save_pretrained(work / f"{kind}-theirs")
            compare(f"{label} {kind}, saved by peft", model, folder,
                    ours(folder, "--adapter", work / f"{kind}-theirs"))


if __name__ == "__main__":
    program = sys.argv[1]
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    for label, (preset, text) in MODELS.items():
        check(label, preset, text)
    sys.exit(failures > 0)
