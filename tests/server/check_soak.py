#!/usr/bin/env python3
"""Many clients for a while, some of whom go in the middle, with a model and two adapters: every answer is that of the
same request alone, and memory does not grow.   SECONDS=600 check_soak.py PROGRAM"""
import json
import os
import random
import socket
import sys
import threading
import time

from client import Server, chat, make_adapter, make_model, run, wait_until

N_CLIENT, N_KIND = 32, 24
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": {
    "type": "object", "properties": {"n": {"type": "integer"}, "t": {"enum": ["yes", "no"]}}, "required": ["n", "t"]}}}


def request(kind):
    rng = random.Random(kind)
    text = ("the same beginning " * 12 if kind % 2 else "") + "".join(rng.choice("abcdefgh ") for _ in range(rng.randint(1, 200)))
    return chat(text, model=("m", "a", "b")[kind % 3], seed=kind, max_tokens=rng.randint(1, 40), temperature=0 if kind % 3 else 1.2,
                stop=["e"] if kind % 5 == 0 else None, n=2 if kind % 7 == 0 else 1,
                response_format=FORM if kind % 4 == 1 else None)


def go_away(server, body):
    text = json.dumps(dict(body, stream=True, max_tokens=400)).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        s.recv(random.randint(1, 2000))


def resident(server):
    with open("/proc/%d/statm" % server.process.pid) as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_soak(program, work):
    seconds = float(os.environ.get("SECONDS", "12"))
    model = make_model(program, work + "/m")
    adapters = [make_adapter(model, work + "/" + name, seed) for seed, name in enumerate("ab")]
    server = Server(program, "--model", model, "--adapter", adapters[0], "--adapter", adapters[1], "--queue", "1000")
    wrong, count, sizes, lock = [], [0, 0], [], threading.Lock()
    try:
        alone = [server.post("/v1/chat/completions", request(k)).json()["choices"] for k in range(N_KIND)]
        end = time.monotonic() + seconds

        def client(number):
            rng = random.Random(1000 + number)
            while time.monotonic() < end and not wrong:
                kind = rng.randrange(N_KIND)
                try:
                    if rng.random() < 0.2:
                        go_away(server, request(kind))
                        with lock:
                            count[1] += 1
                        continue
                    got = server.post("/v1/chat/completions", request(kind), timeout=600).json()["choices"]
                    if got != alone[kind]:
                        wrong.append((kind, got, alone[kind]))
                    with lock:
                        count[0] += 1
                except Exception as error:  # a test that dies in a thread must not pass
                    wrong.append((kind, repr(error)))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(N_CLIENT)]
        for t in threads:
            t.start()
        while time.monotonic() < end and not wrong:
            time.sleep(seconds / 40)
            sizes.append(resident(server))
        for t in threads:
            t.join()
        assert not wrong, wrong[0]
        assert wait_until(lambda: server.metric("requests_running") == 0 and server.metric("requests_waiting") == 0)
        third = len(sizes) // 3
        before, after = max(sizes[third:2 * third]), max(sizes[2 * third:])
        growth = after / before - 1
        print("     %d answers, %d went away; memory %.1f MB, growth %.2f %%" % (count[0], count[1], after / 1e6, 100 * growth))
        assert count[0] > N_KIND and count[1] > 0
        if seconds >= 300:  # shorter, the arenas of the allocator still fill
            assert growth < 0.01, sizes
    finally:
        assert server.stop() == 0


if __name__ == "__main__":
    run(sys.modules[__name__])
