#!/usr/bin/env python3
"""The tokenizer beside tiktoken and Hugging Face tokenizers: same text, one thread, best pass of several.

    cmake --preset release -DMOONLIGHT_BENCH=ON && cmake --build --preset release
    python3 bench/bench_tokenizer.py build/release/bench/bench_tokenizer DATA [FILE ...]

DATA is the folder of real test files, FILE any more texts to encode.  Needs the Python packages tokenizers and tiktoken.
Each text is repeated to about 16 MiB; tokenizers, which is slow on it, gets the text once.
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "interop"))

from test_tokenizers import gpt2_tiktoken, moonlight_tiktoken  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: E402

SIZE = 16 << 20


def best_of(passes, run):
    best, result = 1e30, None
    for _ in range(passes):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    return best, result


def ours(program, *arguments):
    out = subprocess.run([program, *map(str, arguments)], stdout=subprocess.PIPE, check=True).stdout.split()
    return int(out[0]), int(out[1]), float(out[2])


def row(name, n_bytes, n_ids, seconds, reference=None):
    ratio = f"{reference / seconds:8.2f}x of tiktoken" if reference else ""
    print(f"  {name:12} {n_bytes / seconds / 1e6:8.1f} MB/s {n_ids / seconds / 1e6:8.2f} M ids/s {ratio}")


def bench_encoding(program, data, name, reference, source, work):
    once = source.read_bytes().decode()
    text = once * max(1, SIZE // len(once.encode()))
    path = work / "text"
    path.write_bytes(text.encode())
    print(f"{name}, {source.name} repeated to {path.stat().st_size / 1e6:.1f} MB, one thread")
    n_bytes, n_ids, seconds = ours(program, "encode", data / name, path, 3)
    theirs, ids = best_of(3, lambda: reference.encode_ordinary(text))
    assert len(ids) == n_ids, (len(ids), n_ids)
    row("moonlight", n_bytes, n_ids, seconds, theirs)
    row("tiktoken", n_bytes, n_ids, theirs)
    if name == "gpt2":
        hf = Tokenizer(models.BPE.from_file(str(data / "gpt2/encoder.json"), str(data / "gpt2/vocab.bpe")))
        hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        seconds, encoding = best_of(3, lambda: hf.encode(once, add_special_tokens=False))
        row("tokenizers", len(once.encode()), len(encoding.ids), seconds)


def bench_training(program, data, threads):
    path = data / "text" / "tinystories_2MiB.txt"
    documents = path.read_bytes().decode().split("<|endoftext|>")

    def train():
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.train_from_iterator(documents, trainers.BpeTrainer(
            vocab_size=10000, special_tokens=["<|endoftext|>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))

    n_bytes, n_ids, seconds = min((ours(program, "train", path, 10000, threads) for _ in range(5)), key=lambda r: r[2])
    theirs, _ = best_of(3, train)
    print(f"training 10,000 tokens on {path.name}, {threads} thread(s): moonlight {seconds:.3f} s, "
          f"tokenizers {theirs:.3f} s, ratio {theirs / seconds:.1f}x")


def main(program, data, *files):
    data = pathlib.Path(data)
    names = ("tinystories_2MiB.txt", "tinyshakespeare.txt")
    sources = [data / "text" / name for name in names] + [pathlib.Path(f) for f in files]
    with tempfile.TemporaryDirectory() as work:
        for name, make in (("gpt2", gpt2_tiktoken), ("kimi", moonlight_tiktoken)):
            reference = make(data)
            for source in sources:
                bench_encoding(program, data, name, reference, source, pathlib.Path(work))
    bench_training(program, data, 1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
