#!/usr/bin/env python3
"""Parquet reading beside pyarrow: decoded text a second of processor time on one thread, best pass.

    cmake --preset release -DMOONLIGHT_BENCH=ON && cmake --build --preset release
    python3 bench/bench_parquet.py build/release/bench/bench_parquet TEXT

TEXT is a text whose documents end with lines of <|endoftext|>, repeated to about 64 MB with a number in each document,
so that no two are alike.  Needs pyarrow.  Written are a text column and a column of chats (list of structs of role and
content, a paragraph a turn), with every codec as the library writes them (dictionaries where they pay), then with every
encoding of strings in pages of both versions; pyarrow's figure is reading the column into Arrow memory, without Python
objects.
"""
import pathlib
import subprocess
import sys
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq

SIZE = 64_000_000
STRINGS = ("text", "messages.list.element.role", "messages.list.element.content")
CODECS = ("none", "snappy", "zstd", "lz4", "gzip", "brotli")
ENCODINGS = ("PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY")
FORMS = [(codec, None, "1.0") for codec in CODECS]
FORMS += [("none", encoding, version) for encoding in ENCODINGS for version in ("1.0", "2.0")]


def documents(path):
    parts = [part.strip() for part in pathlib.Path(path).read_text().split("<|endoftext|>") if part.strip()]
    out, total = [], 0
    while total < SIZE:
        out.append(f"{len(out)} " + parts[len(out) % len(parts)])
        total += len(out[-1])
    return out


def chat(document):
    lines = [line for line in document.split("\n") if line]
    return [{"role": ("user", "assistant")[i % 2], "content": line} for i, line in enumerate(lines)]


def measure(program, path, column):
    out = subprocess.run([program, path, column, "1.5"], capture_output=True, text=True, check=True).stdout.split()
    return float(out[2]), float(out[4])


def pyarrow_seconds(path, column):
    best = 1e30
    for _ in range(3):
        start = time.process_time()
        pq.read_table(path, columns=[column], use_threads=False)
        best = min(best, time.process_time() - start)
    return best


def main():
    program, text = sys.argv[1:3]
    pa.set_cpu_count(1)
    texts = documents(text)
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    table = pa.table({"text": pa.array(texts, pa.string()),
                      "messages": pa.array([chat(t) for t in texts], pa.list_(message))})
    print("| codec | encoding | pages | text | chats | pyarrow: text | chats |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "bench.parquet"
        for codec, encoding, version in FORMS:
            how = {"compression": codec, "data_page_version": version, "row_group_size": 20000}
            if encoding:
                how |= {"use_dictionary": False, "column_encoding": {c: encoding for c in STRINGS}}
            pq.write_table(table, path, **how)
            ours, theirs = [], []
            for column in ("text", "messages"):
                size, speed = measure(program, path, column)
                ours.append(speed)
                theirs.append(size / pyarrow_seconds(path, column))
            print(f"| {codec} | {encoding or 'dictionary or plain'} | {version} | "
                  + " | ".join(f"{x:.0f} MB/s" for x in ours + theirs) + " |", flush=True)


main()
