#!/usr/bin/env python3
"""The server's throughput at 16 requests at once over one, and what a shared beginning saves.

    bench_serve.py PROGRAM MODEL [--prompt 64] [--gen 64] [--prefix 1000]

Requests are greedy and as long as asked (the ids that end an answer are biased away).  Ratios are of one run."""
import argparse
import json
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "server"))
from client import Server  # noqa: E402


def body(number, prompt, gen, bias):
    ids = [(7 * number + 13 * i) % 200 for i in range(prompt)]
    return {"prompt": ids, "max_tokens": gen, "temperature": 0, "logit_bias": bias}


def tokens_per_second(server, n, prompt, gen, bias, salt):
    counts = []

    def ask(i):
        answer = server.post("/v1/completions", body(salt + i, prompt, gen, bias), timeout=600).json()
        counts.append(answer["usage"]["completion_tokens"])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(n)]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sum(counts) / (time.monotonic() - start)


def first_token(server, ids):
    start = time.monotonic()
    server.post("/v1/completions", {"prompt": ids, "max_tokens": 1, "temperature": 0}, timeout=600)
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=1000)
    a = parser.parse_args()
    server = Server(a.program, "--model", a.model)
    try:
        n_vocab = server.get("/api/models").json()["models"][0]["n_vocab"]
        bias = {str(i): -100 for i in range(max(200, n_vocab - 60), n_vocab)}
        tokens_per_second(server, 2, a.prompt, a.gen, bias, 5000)
        one = tokens_per_second(server, 1, a.prompt, a.gen, bias, 100)
        many = tokens_per_second(server, 16, a.prompt, a.gen, bias, 200)
        prefix = [(11 * i) % 199 for i in range(a.prefix)]
        first, second = first_token(server, prefix + [1] * 8), first_token(server, prefix + [2] * 8)
        print(json.dumps({"one_tps": round(one, 1), "sixteen_tps": round(many, 1), "ratio": round(many / one, 2),
                          "first_token": round(first, 4), "first_token_again": round(second, 4),
                          "share": round(second / first, 3)}))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
