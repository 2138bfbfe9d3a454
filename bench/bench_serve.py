#!/usr/bin/env python3
"""The server under load: many requests at once against one, what a shared beginning saves, and other servers beside it.

    bench_serve.py PROGRAM MODEL [--prompt 64] [--gen 64] [--clients 16] [--each 1] [--rounds 3] [--prefix 1000] [--end ID ...]
                   [--peer "COMMAND of a server that speaks OpenAI's API, with {port} and absolute paths" ...]
                   [--peer-url http://HOST:PORT ...]

Requests are greedy, all prompts differ, and answers are as long as asked (the ids that end one are biased away, or
--end names them; peers get ignore_eos).  Each client asks one after the other, --each times.  Rounds take turns: ours, then each
peer.  Printed: for each server the medians of the rounds; for each peer the ratios, ours over theirs, of every round.
Tokens are counted as the servers report them, the time to the first token until the first event with text."""
import argparse
import http.client
import json
import os
import random
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "server"))
from client import Server  # noqa: E402


class Ours:
    name = "moonlight"

    def __init__(self, program, model, end, threads):
        self.server = Server(program, "--model", model, threads=threads)
        self.host, self.port = "127.0.0.1", self.server.port
        self.n_vocab = self.get("/api/models")["models"][0]["n_vocab"]
        ids = end or range(max(200, self.n_vocab - 60), self.n_vocab)
        self.more = {"logit_bias": {str(i): -100 for i in ids}}

    def get(self, path):
        return self.server.get(path).json()

    def stop(self):
        self.server.stop()


class Peer:
    """Another server, by its command or where it runs already."""

    def __init__(self, command=None, url=None):
        self.process, self.more = None, {"ignore_eos": True}
        if url:
            address = urllib.parse.urlparse(url)
            self.name, self.host, self.port = url, address.hostname, address.port or 80
            return
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.host, self.port = "127.0.0.1", free.getsockname()[1]
        self.name = os.path.basename(shlex.split(command)[0])
        self.log, self.folder = tempfile.TemporaryFile(), tempfile.TemporaryDirectory()  # where it may leave things
        print("# " + command.replace("{port}", str(self.port)), flush=True)
        self.process = subprocess.Popen(shlex.split(command.replace("{port}", str(self.port))), stdout=self.log,
                                        stderr=self.log, cwd=self.folder.name)
        while not self.is_ready():
            if self.process.poll() is not None:
                self.log.seek(0)
                raise SystemExit(self.log.read().decode(errors="replace")[-4000:])
            time.sleep(0.2)

    def is_ready(self):
        try:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()


def ask(server, ids, gen, stream=True):
    """Seconds until the first token and until the end, and the number of tokens."""
    body = dict({"prompt": ids, "max_tokens": gen, "temperature": 0, "stream": stream}, **server.more)
    if stream:
        body["stream_options"] = {"include_usage": True}
    connection = http.client.HTTPConnection(server.host, server.port, timeout=600)
    start = time.monotonic()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    first, n_event, n = None, 0, None
    if not stream:
        n = json.loads(answer.read())["usage"]["completion_tokens"]
    for line in answer if stream else []:
        if line.startswith(b"data: {"):
            n_event += 1
            first = first or time.monotonic() - start
            if b'"usage":{' in line.replace(b" ", b""):
                n = json.loads(line[6:])["usage"]["completion_tokens"]
    end = time.monotonic() - start
    connection.close()
    if answer.status != 200 or n is None:
        raise SystemExit("%s: status %d, no count of tokens" % (server.name, answer.status))
    return first or end, end, n


def load(server, rng, n_client, n_each, n_prompt, gen, stream=True):
    """Tokens per second of all clients together, and the times to the first token."""
    prompts = [[[rng.randrange(10, 250) for _ in range(n_prompt)] for _ in range(n_each)] for _ in range(n_client)]
    results = []

    def client(mine):
        for ids in mine:
            results.append(ask(server, ids, gen, stream))

    threads = [threading.Thread(target=client, args=(p,)) for p in prompts]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    seconds = time.monotonic() - start
    if len(results) != n_client * n_each:
        raise SystemExit("%s: a client failed" % server.name)
    return sum(r[2] for r in results) / seconds, sorted(r[0] for r in results)


def percentile(values, share):
    """Of sorted values: the smallest that so many are not above."""
    return values[min(len(values) - 1, max(0, -int(-share * len(values) // 1) - 1))]


def measure(server, rng, a):
    one, _ = load(server, rng, 1, 1, a.prompt, a.gen, a.stream)
    many, first = load(server, rng, a.clients, a.each, a.prompt, a.gen, a.stream)
    out = {"one_tps": one, "many_tps": many, "ratio": many / one}
    if a.stream:
        out.update(first_median=percentile(first, 0.5), first_p95=percentile(first, 0.95))
    return out


def measure_prefix(server, rng, n_prefix):
    """Seconds to the first token of a prompt, and of another with the same beginning."""
    prefix = [rng.randrange(10, 250) for _ in range(n_prefix)]
    first = ask(server, prefix + [11, 12, 13, 14, 15, 16, 17, 18], 2)[0]
    again = ask(server, prefix + [21, 22, 23, 24, 25, 26, 27, 28], 2)[0]
    return {"prefix_first": first, "prefix_again": again, "prefix_share": again / first}


def rounded(row):
    return {k: round(v, 4 if v < 10 else 1) for k, v in row.items()}


def medians(rows):
    return rounded({k: statistics.median(r[k] for r in rows) for k in rows[0]})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--each", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefix", type=int, default=1000, help="0: not measured")
    parser.add_argument("--end", type=int, nargs="*")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--peer-url", action="append", default=[])
    parser.add_argument("--threads", default="2")
    parser.add_argument("--no-stream", dest="stream", action="store_false", help="count tokens only: less work for the client")
    a = parser.parse_args()
    servers = []
    try:
        servers.append(Ours(a.program, a.model, a.end, a.threads))
        servers += [Peer(command=c) for c in a.peer] + [Peer(url=u) for u in a.peer_url]
        for s in servers:
            load(s, random.Random(1), 2, 1, a.prompt, 4)
        rows = [[] for _ in servers]
        for r in range(a.rounds):
            for i, s in enumerate(servers):
                rng = random.Random(100 + r)
                row = measure(s, rng, a)
                if a.prefix:
                    row.update(measure_prefix(s, rng, a.prefix))
                rows[i].append(row)
        for s, mine in zip(servers, rows):
            print(json.dumps(dict({"server": s.name}, **medians(mine))))
        for s, theirs in zip(servers[1:], rows[1:]):
            for key in rows[0][0]:
                ratios = [ours[key] / other[key] for ours, other in zip(rows[0], theirs)]
                print("ours / %s, %-14s median %.3f  (%s)" % (s.name, key, statistics.median(ratios),
                                                              " ".join("%.3f" % x for x in ratios)))
    finally:
        for s in servers:
            s.stop()


if __name__ == "__main__":
    main()
