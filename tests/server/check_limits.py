#!/usr/bin/env python3
"""docs/limits.md: each limit at limit - 1, at the limit, at limit + 1.   check_limits.py PROGRAM [TEST...]"""
import json
import os
import socket
import subprocess
import sys
import threading
import time

from client import Server, Watched, Watchman, chat, make_adapter, make_model, run, wait_until

NO_END = {str(i): -100 for i in range(256, 260)}


def around(server, path, make, limit, beyond=400, good=200, param=None, word=""):
    for n, wanted in ((limit - 1, good), (limit, good), (limit + 1, beyond)):
        reply = server.post(path, make(n))
        assert reply.status == wanted, (path, n, reply.status, reply.body[:300])
        if wanted == beyond:
            error = reply.json()["error"]
            assert word in error["message"] and (not param or error["param"] == param), reply.body


def test_sizes_of_bodies(program, work):
    server = Watched(program, "--model", make_model(program, work + "/m"))
    try:
        def body(n):  # n bytes
            text = json.dumps({"tokens": [1]})
            return text + " " * (n - len(text))
        around(server, "/detokenize", body, 4 << 20, beyond=413)
        around(server, "/api/conversations", lambda n: '{"settings":%s1%s}' % ('{"a":' * (n - 1), "}" * (n - 1)), 64,
               good=201)
        around(server, "/detokenize", lambda n: '{"tokens":[%s]}' % ",".join(["1"] * (n - 1)), 1000000)
    finally:
        assert server.stop() == 0


def begin(server, path, body, n=None, receive=None):
    """A request of which n bytes of the body are sent."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    s = socket.socket()
    if receive:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    s.settimeout(100)
    s.connect(("127.0.0.1", server.port))
    s.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body[:n])
    return s


def test_bytes_of_all_bodies(program, work):
    """64 clients fill what there is for bodies but for 64 bytes, which is what is left for all others."""
    server = Server(program, "--model", make_model(program, work + "/m"))
    whole = b'{"tokens":[1]}'.ljust(4 << 20)

    def body(n):
        return b'{"tokens":[1]}'.ljust(n)
    try:
        with Watchman(server):
            held = [begin(server, "/detokenize", whole, len(whole) - (64 if i == 63 else 0) - 1) for i in range(64)]
            left = (256 << 20) - sum(len(whole) - (64 if i == 63 else 0) - 1 for i in range(64))
            assert left == 128
            assert wait_until(lambda: server.post("/detokenize", body(left + 1)).status == 503, 60)
            for round in range(2):  # what was refused takes no room; what was answered, none soon after its answer
                for n in left - 1, left:
                    assert wait_until(lambda: server.post("/detokenize", body(n)).status == 200), n
                reply = server.post("/detokenize", body(left + 1))
                assert reply.status == 503 and b"try again later" in reply.body, reply.body
            for s in held[:8]:
                s.sendall(b" ")
                assert s.recv(12).endswith(b"200")
            assert wait_until(lambda: server.post("/detokenize", body(left + 1)).status == 200)
            for s in held:
                s.close()
        assert wait_until(lambda: server.metric("requests_running") == 0)
    finally:
        assert server.stop() == 0


def answer_of(s):
    """All that comes until the other side closes, and the seconds that it takes."""
    start, out = time.monotonic(), b""
    try:
        while True:
            piece = s.recv(1 << 16)
            if not piece:
                break
            out += piece
    except ConnectionResetError:
        pass
    return out, time.monotonic() - start


def test_seconds_without_a_byte(program, work):
    """29 are forgiven, 31 are not, and the end does not come before the 30th: of clients that send nothing, half of a head,
    half of a body, nothing more, and that do not read.  Who waits for an answer all that time gets it."""
    os.makedirs(work + "/runs/r")
    with open(work + "/runs/r/samples.jsonl", "w") as file:
        for i in range(12000):
            file.write(json.dumps({"step": i, "prompt": "p", "text": "x" * 1000}) + "\n")
    open(work + "/runs/r/log.jsonl", "w").close()
    server = Server(program, "--model", make_model(program, work + "/m", context=64000), "--runs", work + "/runs", "--slots",
                    "1", threads="1")
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ask = b'{"tokens":[1]}'

    def start(kind):
        if kind == "body":
            return begin(server, "/detokenize", ask, 5)
        if kind == "unread":  # 12 MB of which the system keeps some
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            s.connect(("127.0.0.1", server.port))
            s.sendall(head.replace(b"/health", b"/api/runs/r/samples"))
        else:
            s = socket.create_connection(("127.0.0.1", server.port))
        if kind in ("head", "kept"):
            s.sendall(head if kind == "kept" else head[:20])
        if kind == "kept":
            assert s.recv(12).endswith(b"200")
            while b"}" not in s.recv(4096):
                pass
        s.settimeout(100)
        return s
    rest = {"silent": head, "head": head[20:], "body": ask[5:], "kept": head, "unread": b""}
    problems = []

    def forgiven(kind):
        begun = time.monotonic()
        s = start(kind)
        time.sleep(29)
        if time.monotonic() - begun > 29.5:  # this machine slept, which says nothing
            s.close()
            return forgiven(kind)
        s.sendall(rest[kind])
        out = s.recv(12)
        while kind == "unread" and not out.endswith(b"]}"):
            piece = s.recv(1 << 16)
            assert piece, len(out)
            out += piece
        s.close()
        if not out[:12].endswith(b"200"):
            problems.append((kind, 29, out[:100]))

    def closed(kind):
        s = start(kind)
        if kind != "unread":
            asleep = watchman.asleep
            out, seconds = answer_of(s)
            if out or seconds < 29.9 or seconds - watchman.asleep_since(asleep) > 31:
                problems.append((kind, seconds, out[:100]))
            return
        first = s.recv(12)  # the rest comes right behind, as far as it has room
        time.sleep(31.2)
        out, seconds = answer_of(s)
        if not (first.endswith(b"200") and len(out) < 11e6 and seconds < 5):
            problems.append((kind, seconds, len(out)))

    def guarded(f, kind):
        try:
            f(kind)
        except Exception as error:  # a test that dies in a thread must not pass
            problems.append((f.__name__, kind, repr(error)))
    try:
        with Watchman(server) as watchman:
            first = begin(server, "/v1/chat/completions", chat("a", logit_bias=NO_END, max_tokens=60000, kv_cache=False))
            assert wait_until(lambda: server.metric("requests_running") == 1)
            late = begin(server, "/v1/completions", {"prompt": "b", "max_tokens": 2})
            threads = [threading.Thread(target=guarded, args=(f, kind)) for f in (forgiven, closed) for kind in rest]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            first.close()
            assert late.recv(12).endswith(b"200")
            late.close()
            assert not problems, problems
    finally:
        assert server.stop() == 0


def test_numbers_of_things(program, work):
    server = Watched(program, "--model", make_model(program, work + "/m", context=6000))
    ask = "/v1/chat/completions"
    try:
        message = {"role": "user", "content": "a"}
        around(server, ask, lambda n: {"messages": [message] * n, "max_tokens": 1}, 1024, param="messages")
        around(server, ask, lambda n: chat("a", max_tokens=1, n=n), 16, param="n")
        around(server, ask, lambda n: chat("a", max_tokens=1, stop=["x"] * n), 16, param="stop")
        around(server, ask, lambda n: chat("a", max_tokens=1, stop="x" * n), 256, param="stop")
        around(server, ask, lambda n: chat("a", max_tokens=1, logprobs=True, top_logprobs=n), 20, param="top_logprobs")
        around(server, ask, lambda n: chat("a", max_tokens=1, logit_bias={str(i): 1 for i in range(n)}), 1024,
               param="logit_bias")
        around(server, ask, lambda n: chat("a", max_tokens=n - server_tokens(server), trace=True), 4096, param="trace")
        around(server, "/v1/completions", lambda n: {"prompt": ["a"] * n, "max_tokens": 1}, 64, param="prompt")
        around(server, "/v1/completions", lambda n: {"prompt": "a", "max_tokens": 1, "logprobs": n}, 20,
               param="logprobs")
        around(server, "/v1/embeddings", lambda n: {"input": ["a"] * n}, 64, param="input")
        around(server, "/api/conversations", lambda n: {"title": "x" * n}, 200, good=201, param="title")
        around(server, "/api/bench", lambda n: {"prompt_tokens": n, "gen_tokens": 1, "repeat": 1}, 1024)
        around(server, "/api/bench", lambda n: {"prompt_tokens": 4, "gen_tokens": 1, "repeat": n}, 20)

        def schema(n):
            one = json.dumps({"const": ""}, separators=(",", ":"))
            form = {"type": "json_schema", "json_schema": {"schema": {"const": "x" * (n - len(one))}}}
            return chat("a", max_tokens=1, response_format=form)
        around(server, ask, schema, 65536, param="response_format")
        traces = [server.post("/api/trace", {"prompt": "a"}).json()["id"] for _ in range(17)]
        found = [server.get("/api/trace/" + t).status for t in traces]
        assert found == [404] + [200] * 16
    finally:
        assert server.stop() == 0


def test_schemas(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))

    def schema(make):
        return lambda n: chat("a", max_tokens=1, response_format={"type": "json_schema", "json_schema": {"schema": make(n)}})

    def chain(n, **more):  # n references behind each other
        defs = {"d%d" % i: dict({"$ref": "#/$defs/d%d" % (i + 1)}, **more) for i in range(n)}
        defs["d%d" % n] = {"type": "integer"}
        return {"$ref": "#/$defs/d0", "$defs": defs}

    def spaced(n):  # n characters that are no neighbours
        return "".join(chr(0x4e00 + 2 * i) for i in range(n))
    cases = [
        (lambda n: {"type": "string", "minLength": n}, 10000, "minLength"),
        (lambda n: {"type": "string", "maxLength": n}, 10000, "maxLength"),
        (lambda n: {"type": "array", "items": {"type": "null"}, "minItems": n}, 2000, "minItems"),
        (lambda n: {"type": "array", "items": {"type": "null"}, "maxItems": n}, 2000, "maxItems"),
        (lambda n: {"prefixItems": [True] * n}, 2000, "prefixItems"),
        (lambda n: {"type": "object", "maxProperties": n}, 2000, "maxProperties"),
        (lambda n: {"type": "integer", "multipleOf": n, "minimum": 0, "maximum": 999}, 100, "multipleOf"),
        # The schema, each it refers to, and the last one.
        (lambda n: chain(n - 2), 64, "too deep"),
        (lambda n: {"anyOf": [{"type": "string"}, chain(n, minimum=1)["$defs"]["d0"]],
                    "$defs": chain(n, minimum=1)["$defs"]}, 100, "itself"),
        (lambda n: {"allOf": [{}] * n}, 5000, "combines"),
        # Before the first character, behind each, and behind one that leads nowhere.
        (lambda n: {"pattern": "^a{%d}$" % (n - 2)}, 4000, "states"),
        # Each (aa|aa) has five places; six more are the ends and what stands before and behind.
        (lambda n: {"pattern": "^(aa|aa){817}%s$" % ("b" * (n - 6 - 5 * 817))}, 4096, "repetitions"),
        # The beginning; two nodes for a character, three with a star.
        (lambda n: {"pattern": "a" * ((n - 4 * (n % 2 == 0) - 1) // 2) + "a*" * (n % 2 == 0)}, 2048, "too long"),
        (lambda n: {"pattern": "(" * n + "a" + ")" * n}, 64, "too deep"),
        (lambda n: {"pattern": "^(){%d}a$" % n}, 10000, "repetitions"),
        (lambda n: {"pattern": "[%s]" % ("a" * n)}, 512, "parts"),
        (lambda n: {"pattern": "[%s]" % spaced(n)}, 255, "classes"),
    ]
    try:
        with Watchman(server):
            for make, limit, word in cases:
                around(server, "/v1/chat/completions", schema(make), limit, param="response_format", word=word)
            costly = schema(lambda n: {"pattern": "(((((){9999}){9999}){9999}){9999})"})(0)
            reply = server.post("/v1/chat/completions", costly)
            assert reply.status == 400 and "too complex" in reply.json()["error"]["message"], reply.body
            reply = server.post("/v1/chat/completions", schema(lambda n: {"properties": {
                "k%d" % i: {"type": "string", "maxLength": 10000} for i in range(9)}})(0))
            assert reply.status == 400 and "too much" in reply.json()["error"]["message"], reply.body
    finally:
        assert server.stop() == 0


def server_tokens(server):
    return server.post("/tokenize", {"messages": [{"role": "user", "content": "a"}]}).json()["count"]


def test_tools(program, work):
    """Their number is looked at before whether the model has a place for them."""
    server = Watched(program, "--model", make_model(program, work + "/m"))
    tool = {"type": "function", "function": {"name": "x"}}
    try:
        for n, word in ((127, "tools"), (128, "tools"), (129, "128 at most")):
            reply = server.post("/v1/chat/completions", chat("a", tools=[tool] * n))
            assert reply.status == 400 and word in reply.json()["error"]["message"], reply.body
    finally:
        assert server.stop() == 0


def test_bytes_of_tools(program, work):
    parrot = os.environ.get("MAKE_PARROT")
    assert parrot, "MAKE_PARROT names the program"
    fixtures = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "byte_tokenizer")
    subprocess.run([parrot, fixtures, work + "/chatty", "kimi", "a", "b"], check=True)
    server = Watched(program, "--model", work + "/chatty")

    def make(n):
        one = [{"type": "function", "function": {"name": "x", "description": ""}}]
        one[0]["function"]["description"] = "d" * (n - len(json.dumps(one, separators=(",", ":"))))
        return one
    try:  # the prompt is too long in any case, which is said with other words
        for n, word in ((65535, "context"), (65536, "context"), (65537, "65536 at most")):
            reply = server.post("/v1/chat/completions", chat("a", tools=make(n), tool_choice="required"))
            assert reply.status == 400 and word in reply.json()["error"]["message"], (n, reply.body)
    finally:
        assert server.stop() == 0


def test_notes_of_runs(program, work):
    os.makedirs(work + "/runs/r")
    open(work + "/runs/r/log.jsonl", "w").close()
    server = Watched(program, "--runs", work + "/runs")
    try:
        for n, wanted in ((999, 200), (1000, 200), (1001, 400)):
            assert server.request("PATCH", "/api/runs/r", {"note": "x" * n}).status == wanted
        for n, wanted in ((999, 200), (1000, 200), (1001, 400)):
            assert server.get("/api/runs/r/rollouts?limit=%d" % n).status == wanted
    finally:
        assert server.stop() == 0


def test_lines_of_runs(program, work):
    """Of more than 100,000 lines the first ones, whole steps; behind the last of them one goes on."""
    server = Server(program, "--model", make_model(program, work + "/m"), "--runs", work + "/runs")

    def ask(kind, after=-1):
        reply = server.get("/api/runs/r/%s?after=%d" % (kind, after))
        assert reply.status == 200, reply.body
        return reply.json()["lines" if kind == "metrics" else kind]
    os.makedirs(work + "/runs/r")
    try:
        with Watchman(server):
            for each in (1, 3):  # lines of a step
                for n in (99999, 100000, 100001) if each == 1 else (100000, 100001):
                    lines = [{"step": 1 + i // each, "loss" if i % each == 0 else "val_loss": i} for i in range(n)]
                    for kind, name in (("metrics", "log"), ("samples", "samples")):
                        with open(work + "/runs/r/new", "w") as file:
                            file.writelines(json.dumps(line) + "\n" for line in lines)
                        os.rename(work + "/runs/r/new", work + "/runs/r/%s.jsonl" % name)
                        first = ask(kind)
                        whole = n if n <= 100000 else n // each * each - (each if n // each * each > 100000 else 0)
                        assert len(first) == whole, (kind, each, n, len(first))
                        assert first + ask(kind, after=first[-1]["step"]) == lines
            for n, wanted in ((99999, 200), (100000, 200), (100001, 400)):
                assert server.get("/api/runs/r/metrics?points=%d" % n).status == wanted
    finally:
        assert server.stop() == 0


def test_the_context(program, work):
    server = Watched(program, "--model", make_model(program, work + "/m"), "--context", "100")
    try:
        around(server, "/v1/completions", lambda n: {"prompt": [5] * n, "max_tokens": 3}, 99)
        message = server.post("/v1/completions", {"prompt": [5] * 100}).json()["error"]["message"]
        assert "100 tokens" in message and "context of 100" in message
        for path, key, body in (("/v1/completions", "prompt", {"prompt": [5] * 100}),
                                ("/v1/chat/completions", "messages", chat("a" * 200)),
                                ("/v1/embeddings", "input", {"input": "a" * 200})):
            error = server.post(path, body).json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", key), error
        assert server.post("/v1/completions", {"prompt": []}).json()["error"]["code"] is None
        whole = server.post("/v1/completions", {"prompt": [5] * 90, "max_tokens": 50, "logit_bias": {
            str(i): -100 for i in range(256, 260)}}).json()
        assert whole["usage"]["completion_tokens"] == 10 and whole["choices"][0]["finish_reason"] == "length"
    finally:
        assert server.stop() == 0


def test_the_queue(program, work):
    server = Watched(program, "--model", make_model(program, work + "/m", context=4000), "--slots", "2", "--queue", "3")
    statuses = []
    body = chat("a", max_tokens=3900, kv_cache=False, logit_bias={str(i): -100 for i in range(256, 260)}, stream=True)
    streams = []
    try:
        for i in range(6):  # two are answered, three wait, one is too many
            s = socket.create_connection(("127.0.0.1", server.port))
            text = json.dumps(body)
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" %
                      (len(text), text.encode()))
            streams.append(s)
            statuses.append(s.recv(15)[9:12])
        assert statuses == [b"200"] * 5 + [b"429"], statuses
    finally:
        for s in streams:
            s.close()
        assert wait_until(lambda: server.metric("requests_running") == 0 and server.metric("requests_waiting") == 0)
        assert server.stop() == 0


def test_slots(program, work):
    """As many are answered at once as there are slots, the others wait; the option itself has bounds."""
    model = make_model(program, work + "/m", context=8000)
    for slots in (None, 1, 3):
        server = Server(program, "--model", model, *(["--slots", str(slots)] if slots else []))
        streams, slots = [], slots or 16
        try:
            with Watchman(server):
                for n in range(1, slots + 2):
                    streams.append(begin(server, "/v1/chat/completions", chat(
                        "a", max_tokens=7000, kv_cache=False, logit_bias=NO_END, stream=True)))
                    if n >= slots - 1:
                        want = min(n, slots), max(0, n - slots)
                        assert wait_until(lambda: (server.metric("requests_running"),
                                                   server.metric("requests_waiting")) == want, 60), (slots, n)
                streams.pop(0).close()  # then who waits is next
                assert wait_until(lambda: server.metric("requests_waiting") == 0, 60)
                assert server.metric("requests_running") == slots
        finally:
            for s in streams:
                s.close()
            assert server.stop() == 0
    for n, works in ((0, False), (1, True), (256, True), (257, False)):
        if works:
            assert Server(program, "--model", model, "--slots", str(n)).stop() == 0
            continue
        p = subprocess.run([program, "serve", "--model", model, "--slots", str(n), "--store", "none", "--port", "0"],
                           stderr=subprocess.PIPE, timeout=60)
        assert p.returncode == 2 and b"slots" in p.stderr, p.stderr


def test_models_in_memory(program, work):
    """As many by argument as leave room for one more."""
    import shutil
    model = make_model(program, work + "/m", layers=1)
    adapter = make_adapter(model, work + "/a", 1, modules=("q_proj",), rank=1)
    for step in (1, 2):
        shutil.copytree(adapter, work + "/runs/a/step_%06d" % step)
        shutil.copytree(model, work + "/runs/m/step_%06d" % step)
    arguments = ["--model", model] * 7
    for i in range(63):
        arguments += ["--adapter", "a%d=%s" % (i, adapter)]
    server = Watched(program, *arguments, "--runs", work + "/runs", "--slots", "1")
    try:
        for name, word in (("m", "8 models"), ("a", "64 adapters")):
            assert server.post("/api/models/load", {"id": name + "/step_000001"}).status == 200
            refused = server.post("/api/models/load", {"id": name + "/step_000002"})
            assert refused.status == 409 and word in refused.json()["error"]["message"], refused.body
            assert server.post("/api/models/unload", {"id": name + "/step_000001"}).status == 200
            assert server.post("/api/models/load", {"id": name + "/step_000002"}).status == 200
    finally:
        assert server.stop() == 0


def test_connections(program, work):
    """The one beyond is refused, and those behind it are closed; who asks for /health is answered all the same."""
    server = Server(program, "--model", make_model(program, work + "/m"))
    ask = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def connect():
        s = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        return s
    held, spare = [], []
    try:
        for i in range(256):
            held.append(connect())
            held[-1].sendall(ask % b"/v1/models")
            assert held[-1].recv(12).endswith(b"200"), i
        with Watchman(server):
            for i in range(20):
                for path, wanted in ((b"/v1/models", b"503"), (b"/health", b"200"), (b"/metrics", b"200")):
                    late = connect()
                    late.sendall(ask % path)
                    out, _ = answer_of(late)  # it is closed
                    assert out[9:12] == wanted and b"Connection: close" in out, out[:300]
                    late.close()
            spare = [connect() for i in range(8)]  # who holds one of those is gone after two seconds
            for s in spare:
                out, seconds = answer_of(s)
                assert out == b"" and seconds < 10
        assert held[0].recv(4096)  # the others are still there
        held[0].sendall(ask % b"/health")
        held[0].settimeout(20)
        spare = []
        for i in range(17):
            spare.append(connect())
            spare[-1].sendall(b"GET /health HTTP/1.1\r\n")
        assert answer_of(spare[-1])[0] == b""
        for s in held + spare:
            s.close()
        assert wait_until(lambda: serves(server))
    finally:
        assert server.stop() == 0


def serves(server):
    try:
        return server.get("/v1/models").status == 200
    except OSError:
        return False


if __name__ == "__main__":
    run(sys.modules[__name__], beside=("test_seconds_without_a_byte",))
