#!/usr/bin/env python3
"""What the server adds to decoding: one stream of the server against `moonlight bench` on the same model, in turns.

    bench_overhead.py PROGRAM MODEL [--depth 64] [--gen 64] [--rounds 6] [--threads 2] [--end ID ...]

Both compute --gen tokens behind --depth others.  A round is a run of the benchmark (its own warm-up, then two
measurements) and as many answers of the server, the order of the two changing from round to round.  The server's rate is
taken twice: by the seconds of decoding that it reports, and by a client from the first event with text to the last, with
all that lies between.  Printed: each round, and the medians of the ratios, server over benchmark."""
import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "server"))
from client import Server  # noqa: E402


def bench(c):
    out = subprocess.run([c.program, "bench", "--model", c.model, "--prompt", "0", "--gen", str(c.gen), "--depth",
                          str(c.depth), "--repeat", "2", "--threads", c.threads, "--json"], stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, check=True).stdout
    return json.loads(out.splitlines()[-1])["decode_tps"]


def answer(c, server, rng):
    """Tokens per second as the server says, and as a client sees it."""
    body = {"prompt": [rng.randrange(4, 2000) for _ in range(c.depth)], "max_tokens": c.gen + 1, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}, "logit_bias": {str(i): -100 for i in c.end}}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(body))
    times, extra = [], None
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            extra = event.get("moonlight", extra)
            if event["choices"]:
                times.append(time.monotonic())
            n = (event.get("usage") or {}).get("completion_tokens")
    connection.close()
    assert n == c.gen + 1, n
    return c.gen / extra["decode_seconds"], c.gen / (times[-1] - times[0])


def serve(c, server, rng):
    answer(c, server, rng)
    rates = [answer(c, server, rng) for _ in range(2)]
    return [statistics.mean(r[i] for r in rates) for i in range(2)]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("model")
    for name, value in (("depth", 64), ("gen", 64), ("rounds", 6)):
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--threads", default="2")
    p.add_argument("--end", type=int, nargs="*", default=[])
    c = p.parse_args()
    rng, ratios = random.Random(1), []
    server = Server(c.program, "--model", c.model, threads=c.threads)
    try:
        for i in range(c.rounds):
            if i % 2:
                inside, outside = serve(c, server, rng)
                alone = bench(c)
            else:
                alone = bench(c)
                inside, outside = serve(c, server, rng)
            ratios.append((inside / alone, outside / alone))
            print("bench %7.2f tokens/s   server %7.2f (%.3f)   its client %7.2f (%.3f)" %
                  (alone, inside, ratios[-1][0], outside, ratios[-1][1]), flush=True)
    finally:
        server.stop()
    print("medians of %d: server %.3f, its client %.3f of the benchmark's tokens/s" %
          (c.rounds, *(statistics.median(r[i] for r in ratios) for i in range(2))))


if __name__ == "__main__":
    main()
