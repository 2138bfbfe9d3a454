#!/usr/bin/env python3
"""Ids of the program against tiktoken and Hugging Face tokenizers, and its saved tokenizers opened by them.

    python3 tests/interop/test_tokenizers.py PROGRAM DATA [FILE ...]

PROGRAM is the moonlight program, DATA the folder of real test files (the variable MOONLIGHT_TEST_DATA names another),
FILE any more texts to encode.  Needs the Python packages tokenizers and tiktoken; transformers is used where it is
installed.  Prints one line per comparison and ends with status 1 when any differs, 77 (skipped) without DATA.
"""
import base64
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
SPECIAL = ["[UNK]", "[PAD]", "[BOS]", "[EOS]"]
failures = 0


def check(what, ok, detail=""):
    global failures
    failures += not ok
    print(("ok      " if ok else "DIFFERS ") + what, detail)


def run(program, *arguments, text=None):
    done = subprocess.run([program, *map(str, arguments)], input=text, stdout=subprocess.PIPE, check=True)
    return done.stdout


def encode(program, tokenizer, text, *options):
    out = run(program, "tokenizer", "encode", "--tokenizer", tokenizer, "--json", *options, text=text.encode())
    return json.loads(out.splitlines()[-1])["ids"]


def moonlight_pattern():
    golden = pathlib.Path(__file__).parent.parent / "golden" / "tokenizer_splits.json"
    return json.loads(golden.read_text())["regex"]["moonlight"]


def moonlight_tiktoken(data):
    lines = (data / "kimi" / "tiktoken.model").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    return tiktoken.Encoding("moonlight", pat_str=moonlight_pattern(), mergeable_ranks=ranks, special_tokens={})


def gpt2_tiktoken(data):
    """Ranks of vocab.bpe: GPT-2's ids are the ranks in this order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(b): b for b in printable}
    for i, b in enumerate(b for b in range(256) if b not in printable):
        byte_of[chr(256 + i)] = b
    vocab = json.loads((data / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
    ranks = {bytes(byte_of[c] for c in token): id for token, id in vocab.items() if token != "<|endoftext|>"}
    return tiktoken.Encoding("gpt2-files", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})


def compare_vocabulary(program, data, texts, name, reference, work):
    saved = work / name
    run(program, "tokenizer", "info", "--tokenizer", data / name, "--save", saved)
    theirs = Tokenizer.from_file(str(saved / "tokenizer.json"))
    for path, text in texts:
        ids = encode(program, data / name, text)
        check(f"{name} {path}: tiktoken", ids == reference.encode_ordinary(text), f"{len(ids)} ids")
        special = encode(program, data / name, text, "--special")
        check(f"{name} {path}: saved, tokenizers", special == theirs.encode(text, add_special_tokens=False).ids)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return
    auto = AutoTokenizer.from_pretrained(saved)
    text = "Turn: <|im_user|>user<|im_middle|>Hi<|im_end|><|endoftext|> it's 12345"
    ids = auto(text, add_special_tokens=False).input_ids
    check(f"{name}: saved, transformers", ids == encode(program, saved, text, "--special"))


def compare_training(program, data, work):
    path = data / "text" / "tinystories_2MiB.txt"
    arguments = [a for s in SPECIAL for a in ("--special", s)]
    run(program, "tokenizer", "train", path, "--vocab-size", 4000, "--out", work / "trained", *arguments)
    ours = json.loads((work / "trained" / "tokenizer.json").read_text(encoding="utf-8"))
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    documents = path.read_bytes().decode().split("<|endoftext|>")
    theirs.train_from_iterator([d.strip() for d in documents], trainer)
    theirs = json.loads(theirs.to_str())
    merges = [" ".join(m) if isinstance(m, list) else m for m in theirs["model"]["merges"]]
    check("training: merges of tokenizers", ours["model"]["merges"] == merges, f"{len(merges)} merges")
    check("training: vocabulary of tokenizers", ours["model"]["vocab"] == theirs["model"]["vocab"])


def compare_pieces(program, data, texts, work):
    """SentencePiece's scores, saved as merges; with what stands around a text."""
    source, saved = data / "models" / "stories260K.gguf", work / "pieces"
    run(program, "tokenizer", "info", "--tokenizer", source, "--save", saved)
    theirs = Tokenizer.from_file(str(saved / "tokenizer.json"))
    rng = random.Random(3)
    atoms = [" ", "  ", "\u2581", "\n", "a", "the", "Once", "\u00e9", "e\u0301", "\u4e2d", "\U0001f680", "<s>", "aaa", "x1"]
    mixed = "\n".join("".join(rng.choice(atoms) for _ in range(rng.randint(1, 40))) for _ in range(2000))
    for path, text in texts + [("mixed", mixed)]:
        ids = theirs.encode(text).ids
        for name, tokenizer in (("scores", source), ("merges", saved)):
            ok = encode(program, tokenizer, text, "--special", "--around") == ids
            check(f"stories260K {path}: {name}, tokenizers", ok, f"{len(ids)} ids")


def main(program, data, *files):
    data = pathlib.Path(os.environ.get("MOONLIGHT_TEST_DATA", data))
    if not data.is_dir():
        print(f"skipped: there is no folder of test data {data}; MOONLIGHT_TEST_DATA may name one")
        return 77
    names = ["text/tinyshakespeare.txt", "text/tinystories_2MiB.txt", "math/gsm8k_test.jsonl", "kimi/vectors.jsonl",
             "kimi/chktxt_golden.json", "bpe_train/german.txt", "chat/alpaca_en_demo.json"]
    paths = [data / name for name in names] + [pathlib.Path(f) for f in files]
    texts = [(p.name, p.read_bytes().decode()) for p in paths]
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        compare_vocabulary(program, data, texts, "gpt2", gpt2_tiktoken(data), work)
        compare_vocabulary(program, data, texts, "kimi", moonlight_tiktoken(data), work)
        compare_pieces(program, data, texts, work)
        compare_training(program, data, work)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
