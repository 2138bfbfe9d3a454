#!/usr/bin/env python3
"""lm-evaluation-harness against /v1/completions finds what `moonlight eval` finds with the model at hand.

    python3 tests/interop/check_lm_eval.py PROGRAM

A multiple-choice task of questions made up here, on a small model with random weights: both accuracies (by the sum of
log-probabilities, and by that over the length) of `lm_eval --model local-completions` must be those of
`moonlight eval --task choice`, with prompts as ids, as texts, and with [BOS] (lm_eval's add_bos_token=True where the
tokenizer puts it first); texts generated for eight requests at once must be those of one at a time.  Nothing is looked up outside.  Needs lm_eval with its API models, and transformers for the tokenizer."""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "server"))
from client import Server  # noqa: E402

N_QUESTION = 60
WORDS = "the cat sat on a mat while two dogs ran after some bird that was singing for old people near river".split()
CHOICE = """task: made_up_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
"""
GENERATE = """task: made_up_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{context}}}}"
doc_to_target: "e"
generation_kwargs:
  until: ["z"]
  max_gen_toks: 12
  do_sample: false
metric_list:
  - metric: exact_match
"""


def make_model(program, work, bos):
    """Random weights, large enough that the choices differ, and a trained tokenizer, which puts [BOS] first or not."""
    work.mkdir()
    stories, folder = work / "stories.txt", work / "m"
    special = [w for s in ("[UNK]", "[PAD]", *(["[BOS]"] if bos else []), "[EOS]") for w in ("--special", s)]
    settings = {"vocab_size": 512, "num_hidden_layers": 2, "init": "normal", "initializer_range": 0.2,
                "bos_token_id": 2 if bos else -1, "eos_token_id": 3 if bos else 2, "pad_token_id": 1,
                "max_position_embeddings": 1024}
    for command in (["data", "synth", "stories", "--bytes", "200000", "--out", stories],
                    ["init", "nano-moe", folder, *(w for k, v in settings.items() for w in ("--model." + k, str(v)))],
                    ["tokenizer", "train", stories, "--vocab-size", "512", "--out", work / "tokenizer", *special]):
        subprocess.run([program, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.copytree(work / "tokenizer", folder, dirs_exist_ok=True)
    return str(folder)


def make_questions(path):
    rng = random.Random(11)
    with open(path, "w") as file:
        for _ in range(N_QUESTION):
            context = " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12)))
            choices = [" " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(2, 5))]
            file.write(json.dumps({"context": context, "choices": choices, "answer": rng.randrange(len(choices))}) + "\n")


def lm_eval(work, server, model, task, how):
    """The results of a task, and its samples."""
    out = pathlib.Path(tempfile.mkdtemp(dir=work))
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--tasks", task, "--include_path", str(work),
         "--model_args", "model=m,base_url=http://127.0.0.1:%d/v1/completions,tokenizer=%s,tokenizer_backend=huggingface,"
         "max_length=1024,%s" % (server.port, model, how),
         "--output_path", str(out), "--log_samples"],
        capture_output=True, text=True, env=dict(os.environ, HF_HOME=str(work / "cache"), HF_DATASETS_OFFLINE="1"))
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"][task]
    samples = [json.loads(line) for line in next(out.rglob("samples_*.jsonl")).read_text().splitlines()]
    return results, sorted(samples, key=lambda s: s["doc_id"])


def length_decides(sample):
    """Whether the likeliest choice of a question is another by the byte."""
    logprobs = [float(r[0]) for r in sample["filtered_resps"]]
    per_byte = [p / len(c) for p, c in zip(logprobs, sample["doc"]["choices"])]
    return logprobs.index(max(logprobs)) != per_byte.index(max(per_byte))


def main(program):
    failures = 0

    def check(what, ok, detail=""):
        nonlocal failures
        failures += not ok
        print(("ok      " if ok else "DIFFERS ") + what, detail, flush=True)

    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        data = work / "questions.jsonl"
        make_questions(data)
        (work / "choice.yaml").write_text(CHOICE.format(data=data))
        (work / "generate.yaml").write_text(GENERATE.format(data=data))
        for bos, hows in (True, ["num_concurrent=4,add_bos_token=True"]), (False, ["num_concurrent=1",
                          "num_concurrent=8,tokenized_requests=False"]):
            model = make_model(program, work / ("bos" if bos else "plain"), bos)
            done = subprocess.run([program, "eval", "--model", model, "--task", "choice", "--data", data, "--json"],
                                  check=True, capture_output=True, text=True)
            ours = json.loads(done.stdout.splitlines()[-1])
            check("the model prefers some choices", 0 < ours["accuracy"] < 1 and 0 < ours["accuracy_per_byte"] < 1, str(ours))
            server = Server(program, "--model", model)
            try:
                for how in hows:
                    theirs, samples = lm_eval(work, server, model, "made_up_choice", how)
                    check("questions, " + how, len(samples) == ours["questions"] == N_QUESTION)
                    for mine, name in ("accuracy", "acc,none"), ("accuracy_per_byte", "acc_norm,none"):
                        check("%s, %s" % (mine, how), ours[mine] == theirs[name], "%r %r" % (ours[mine], theirs[name]))
                    check("length decides some questions, " + how, any(length_decides(s) for s in samples))
                if not bos:
                    _, samples = lm_eval(work, server, model, "made_up_text", "num_concurrent=8,max_gen_toks=12")
                    with open(data) as file:
                        contexts = [json.loads(line)["context"] for line in file]
                    alone = [server.post("/v1/completions", {"prompt": c, "max_tokens": 12, "temperature": 0,
                                                             "stop": ["z"]}).json()["choices"][0]["text"] for c in contexts]
                    check("generated texts", [s["resps"][0][0] for s in samples] == alone and any(alone))
            finally:
                check("the server ends", server.stop() == 0)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
