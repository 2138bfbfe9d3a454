#!/usr/bin/env python3
"""docs/limits.md: each limit at limit - 1, at the limit, at limit + 1.   check_limits.py PROGRAM [TEST...]"""
import json
import os
import socket
import subprocess
import sys
import threading

from client import Server, chat, make_adapter, make_model, run, wait_until


def around(server, path, make, limit, beyond=400, good=200, param=None):
    for n, wanted in ((limit - 1, good), (limit, good), (limit + 1, beyond)):
        reply = server.post(path, make(n))
        assert reply.status == wanted, (path, n, reply.status, reply.body[:300])
        if wanted == beyond and param:
            assert reply.json()["error"]["param"] == param, reply.body


def test_sizes_of_bodies(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))
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


def test_numbers_of_things(program, work):
    server = Server(program, "--model", make_model(program, work + "/m", context=6000))
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


def server_tokens(server):
    return server.post("/tokenize", {"messages": [{"role": "user", "content": "a"}]}).json()["count"]


def test_tools(program, work):
    """Their number is looked at before whether the model has a place for them."""
    server = Server(program, "--model", make_model(program, work + "/m"))
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
    server = Server(program, "--model", work + "/chatty")

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
    server = Server(program, "--runs", work + "/runs")
    try:
        for n, wanted in ((999, 200), (1000, 200), (1001, 400)):
            assert server.request("PATCH", "/api/runs/r", {"note": "x" * n}).status == wanted
        for n, wanted in ((999, 200), (1000, 200), (1001, 400)):
            assert server.get("/api/runs/r/rollouts?limit=%d" % n).status == wanted
    finally:
        assert server.stop() == 0


def test_the_context(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"), "--context", "100")
    try:
        around(server, "/v1/completions", lambda n: {"prompt": [5] * n, "max_tokens": 3}, 99)
        message = server.post("/v1/completions", {"prompt": [5] * 100}).json()["error"]["message"]
        assert "100 tokens" in message and "context of 100" in message
        whole = server.post("/v1/completions", {"prompt": [5] * 90, "max_tokens": 50, "logit_bias": {
            str(i): -100 for i in range(256, 260)}}).json()
        assert whole["usage"]["completion_tokens"] == 10 and whole["choices"][0]["finish_reason"] == "length"
    finally:
        assert server.stop() == 0


def test_the_queue(program, work):
    server = Server(program, "--model", make_model(program, work + "/m", context=4000), "--slots", "2", "--queue", "3")
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
    server = Server(program, *arguments, "--runs", work + "/runs", "--slots", "1")
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
    server = Server(program, "--model", make_model(program, work + "/m"))
    try:
        held = []
        for i in range(256):
            s = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert s.recv(12).endswith(b"200"), i
            held.append(s)
        late = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        try:
            late.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert late.recv(12) == b""
        except OSError:
            pass
        late.close()
        for s in held:
            s.close()
        assert wait_until(lambda: healthy(server))
    finally:
        assert server.stop() == 0


def healthy(server):
    try:
        return server.get("/health").status == 200
    except OSError:
        return False


if __name__ == "__main__":
    run(sys.modules[__name__])
