#!/usr/bin/env python3
"""What the server adds to decoding: one stream of the server against `moonlight bench` on the same model, in turns.

    bench_overhead.py PROGRAM MODEL [--depth 64] [--gen 64] [--rounds 6] [--threads 2] [--end ID ...]

Both compute --gen tokens behind --depth others.  A round is a run of the benchmark (which first measures the machine for
1.5 s, then warms up, then measures twice) and two pairs of answers of the server behind two seconds of others; the order
of the two changes from round to round.  A pair is an answer that comes whole, of which the server reports the seconds of
decoding, and one that is streamed to a client on the same machine, from the first event with text to the last.  Printed:
each round, and the medians of the ratios, server over benchmark."""
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


def body_of(c, rng, **more):
    return dict({"prompt": [rng.randrange(4, c.n_vocab) for _ in range(c.depth)], "max_tokens": c.gen + 1, "temperature": 0,
                 "logit_bias": {str(i): -100 for i in c.end}}, **more)


def whole(c, server, rng):
    """Tokens per second as the server says."""
    answer = server.post("/v1/completions", body_of(c, rng)).json()
    assert answer["usage"]["completion_tokens"] == c.gen + 1, answer["usage"]
    return c.gen / answer["moonlight"]["decode_seconds"]


def streamed(c, server, rng):
    """Tokens per second as a client sees it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(body_of(c, rng, stream=True)))
    times = [time.monotonic() for line in connection.getresponse() if line.startswith(b"data: {") and b'"text":"' in line]
    connection.close()
    assert len(times) > c.gen // 2, len(times)
    return c.gen / (times[-1] - times[0])


def serve(c, server, rng):
    end = time.monotonic() + 2
    while time.monotonic() < end:
        whole(c, server, rng)
    pairs = [(whole(c, server, rng), streamed(c, server, rng)) for _ in range(2)]
    return [statistics.mean(p[i] for p in pairs) for i in range(2)]


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
        c.n_vocab = server.get("/api/models").json()["models"][0]["n_vocab"]
        for i in range(c.rounds):
            if i % 2:
                entire, events = serve(c, server, rng)
                alone = bench(c)
            else:
                alone = bench(c)
                entire, events = serve(c, server, rng)
            ratios.append((entire / alone, events / alone))
            print("bench %7.2f tokens/s   server, whole %7.2f (%.3f)   streamed %7.2f (%.3f)" %
                  (alone, entire, ratios[-1][0], events, ratios[-1][1]), flush=True)
    finally:
        server.stop()
    print("medians of %d: whole %.3f, streamed %.3f of the benchmark's tokens/s" %
          (c.rounds, *(statistics.median(r[i] for r in ratios) for i in range(2))))


if __name__ == "__main__":
    main()
