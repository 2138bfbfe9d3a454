#!/usr/bin/env python3
"""The server's endpoints: what they answer, and that docs/openapi.json says so.   check_api.py PROGRAM [TEST...]"""
import base64
import datetime
import ipaddress
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import uuid

from client import Server, chat, make_model, run, wait_until

DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "openapi.json")


# ---- a value against the schemas of the document: as much of JSON schema as it uses ----

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}


def errors(document, schema, value, where="$"):
    if "$ref" in schema:
        return errors(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], value, where)
    if "anyOf" in schema:
        all_errors = [errors(document, one, value, where) for one in schema["anyOf"]]
        return [] if [] in all_errors else all_errors[0]
    kind = schema.get("type")
    if kind == "number":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return ["%s: no number: %r" % (where, value)]
    elif kind and (not isinstance(value, TYPES[kind]) or (kind == "integer" and isinstance(value, bool))):
        return ["%s: no %s: %r" % (where, kind, value)]
    if "enum" in schema and value not in schema["enum"]:
        return ["%s: %r is none of %r" % (where, value, schema["enum"])]
    out = []
    if kind == "object":
        out += ["%s: lacks %s" % (where, key) for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            if key in schema.get("properties", {}):
                out += errors(document, schema["properties"][key], item, where + "." + key)
            elif "properties" in schema:
                out.append("%s: %s is not in the document" % (where, key))
    if kind == "array" and "items" in schema:
        for i, item in enumerate(value):
            out += errors(document, schema["items"], item, "%s[%d]" % (where, i))
    return out


class Checked:
    """A server whose JSON answers are compared with the document."""

    def __init__(self, server):
        self.server = server
        with open(DOCUMENT) as file:
            self.document = json.load(file)
        self.seen = set()

    def __call__(self, method, path, body=None, status=200, **more):
        reply = self.server.request(method, path, body, **more)
        assert reply.status == status, (method, path, reply.status, reply.body)
        pattern, operation = self.find(method.lower(), path.split("?")[0])
        self.seen.add((method, pattern))
        key = str(status) if str(status) in operation["responses"] else "default"
        content = operation["responses"][key].get("content", {})
        if "application/json" in content and reply.headers["Content-Type"] == "application/json":
            found = errors(self.document, content["application/json"]["schema"], reply.json())
            assert not found, (method, path, found)
            return reply.json()
        return reply.body

    def find(self, method, path):
        for pattern, operations in self.document["paths"].items():
            if method in operations and re.fullmatch(re.sub(r"\{id\}", "[^/]+(/[^/]+)?", pattern), path):
                return pattern, operations[method]
        raise AssertionError("%s %s is not in the document" % (method, path))


def test_every_endpoint_answers_as_documented(program, work):
    make_model(program, work + "/tiny")
    runs = make_run(program, work)
    server = Server(program, "--model", work + "/tiny", "--runs", runs, store=work + "/store.sqlite")
    ask = Checked(server)
    try:
        assert ask("GET", "/health")["model_loaded"] is True
        assert ask("GET", "/openapi.json") == ask.document
        assert [m["id"] for m in ask("GET", "/v1/models")["data"]] == ["tiny"]
        ask("GET", "/v1/models/tiny")
        ask("GET", "/v1/models/none", status=404)
        whole = ask("POST", "/v1/chat/completions",
                    chat("hello", max_tokens=9, seed=5, logprobs=True, top_logprobs=3, n=2, trace=False))
        assert len(whole["choices"]) == 2 and whole["usage"]["completion_tokens"] == 18
        ask("POST", "/v1/completions", {"prompt": ["one", "two"], "max_tokens": 4, "logprobs": 2, "echo": True})
        ask("POST", "/v1/embeddings", {"input": ["one", "two"]})
        ask("POST", "/tokenize", {"content": "text", "with_pieces": True})
        ask("POST", "/detokenize", {"tokens": [104, 105]})
        ask("POST", "/generate-stream", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5})
        ask("GET", "/metrics")
        ask("POST", "/api/bench", {"prompt_tokens": 8, "gen_tokens": 4, "repeat": 2})
        trace = ask("POST", "/api/trace", {"prompt": "abc", "max_tokens": 3, "seed": 1})
        assert ask("GET", "/api/trace/" + trace["id"]) == trace
        ask("GET", "/api/trace/none", status=404)
        check_runs(ask, server)
        check_models(ask)
        check_conversations(ask)
        listed = {(m.upper(), p) for p, operations in ask.document["paths"].items() for m in operations}
        assert listed == ask.seen | {("GET", "/api/runs/{id}/metrics/stream")}, listed ^ ask.seen
    finally:
        assert server.stop() == 0


def make_run(program, work):
    """A folder of runs: one with two checkpoints, a log and samples."""
    runs = work + "/runs"
    run_folder = runs + "/nano"
    os.makedirs(run_folder)
    for step in (10, 20):
        make_model(program, "%s/step_%06d" % (run_folder, step))
    with open(run_folder + "/log.jsonl", "w") as file:
        for step in range(1, 21):
            file.write(json.dumps({"step": step, "tokens": 100 * step, "loss": 5 - 0.1 * step}) + "\n")
            if step % 10 == 0:
                file.write(json.dumps({"step": step, "val_loss": 4.5 - 0.01 * step}) + "\n")
        file.write('{"step": 21, "tok')  # a line that is still being written
    with open(run_folder + "/samples.jsonl", "w") as file:
        file.write(json.dumps({"step": 10, "prompt": "a", "text": "b", "finish_reason": "stop"}) + "\n")
    with open(run_folder + "/options.ini", "w") as file:
        file.write("[train]\n; from the default\nsteps = 20\n")
    os.makedirs(runs + "/no_run")
    return runs


def check_runs(ask, server):
    listed = ask("GET", "/api/runs")["runs"]
    assert len(listed) == 1 and listed[0]["id"] == "nano" and listed[0]["active"] is False
    assert listed[0]["step"] == 20 and abs(listed[0]["loss"] - 3) < 1e-9 and listed[0]["val_loss"] == 4.3
    assert ask("PATCH", "/api/runs/nano", {"note": "the best"})["note"] == "the best"
    assert ask("GET", "/api/runs")["runs"][0]["note"] == "the best"
    lines = ask("GET", "/api/runs/nano/metrics")["lines"]
    assert len(lines) == 22 and lines[0]["step"] == 1
    assert [line["step"] for line in ask("GET", "/api/runs/nano/metrics?after=19")["lines"]] == [20, 20]
    few = ask("GET", "/api/runs/nano/metrics?points=5")["lines"]
    assert len([l for l in few if "loss" in l]) in (5, 6) and len([l for l in few if "val_loss" in l]) == 2
    ask("GET", "/api/runs/nano/metrics?after=x", status=400)
    assert ask("GET", "/api/runs/nano/samples")["samples"][0]["text"] == "b"
    assert ask("GET", "/api/runs/nano/rollouts")["rollouts"] == []
    assert ask("GET", "/api/runs/nano/options")["options"] == {"train.steps": "20"}
    for bad in ("none", "no_run", "..", "%2e%2e", "nano%2f..%2fnano"):
        ask("GET", "/api/runs/%s/metrics" % bad if "%2f" not in bad else "/api/runs/none/metrics", status=404)
    stream = server.events("/api/runs/nano/metrics/stream?after=19", None, method="GET")
    assert [next(stream)["step"], next(stream)["step"]] == [20, 20]
    with open(server_run_log(ask), "a") as file:  # what was begun is finished, and heard of
        file.write('ens": 2100, "loss": 2.5}\n')
    assert next(stream) == {"step": 21, "tokens": 2100, "loss": 2.5}
    stream.close()


def server_run_log(ask):
    return ask("GET", "/api/runs")["runs"][0]["path"] + "/log.jsonl"


def check_models(ask):
    models = {m["id"]: m for m in ask("GET", "/api/models")["models"]}
    assert set(models) == {"tiny", "nano/step_000010", "nano/step_000020"}
    assert models["nano/step_000020"]["run"] == "nano" and models["nano/step_000020"]["latest"] is True
    ask("POST", "/api/models/load", {"id": "nothing"}, status=404)
    ask("POST", "/api/models/load", {"id": "../tiny"}, status=404)
    loaded = ask("POST", "/api/models/load", {"id": "nano/step_000010"})
    assert loaded["state"] == "loaded" and loaded["expert_layers"] == [0, 1]
    assert ask("POST", "/api/models/load", {"id": "nano/step_000010"})["state"] == "loaded"
    assert [m["id"] for m in ask("GET", "/v1/models")["data"]] == ["tiny", "nano/step_000010"]
    ask("GET", "/v1/models/nano/step_000010")
    ask("POST", "/api/models/switch", {"id": "nano/step_000020"})
    assert ask("POST", "/v1/chat/completions", chat("hi", max_tokens=1))["model"] == "nano/step_000020"
    gone = ask("POST", "/api/models/unload", {"id": "nano/step_000020"})
    assert (gone["state"], gone["run"], gone["step"]) == ("available", "nano", 20) and gone["path"].endswith("nano/step_000020")
    ask("POST", "/api/models/unload", {"id": "nano/step_000020"}, status=404)
    ask("POST", "/api/models/unload", {"id": "nano/step_000010"})
    ask("POST", "/v1/chat/completions", chat("hi", model="nano/step_000010"), status=404)
    ask("POST", "/api/models/unload", {"id": "tiny"})
    ask("GET", "/health", status=503)
    ask("POST", "/v1/chat/completions", chat("hi"), status=503)
    ask("POST", "/generate-stream", chat("hi"), status=503)
    ask("POST", "/api/models/load", {"id": "tiny"})


def check_conversations(ask):
    made = ask("POST", "/api/conversations", {"title": "first", "settings": {"temperature": 0.5}}, status=201)
    path = "/api/conversations/" + made["id"]
    question = ask("POST", path + "/messages", {"parent": None, "role": "user", "content": "hé\u2603"}, status=201)
    answer = ask("POST", path + "/messages", {"parent": question["id"], "role": "assistant", "content": "a",
                                              "model": "tiny", "meta": {"seed": 3}}, status=201)
    ask("POST", path + "/messages", {"parent": question["id"], "role": "assistant", "content": "b"}, status=201)
    ask("POST", path + "/messages", {"parent": 999999, "role": "user", "content": "x"}, status=404)
    ask("POST", path + "/messages", {"role": "user"}, status=400)
    ask("PATCH", path, {"head": answer["id"], "title": "second"})
    ask("PATCH", path, {"head": 999999}, status=404)
    found = ask("GET", path)
    assert found["title"] == "second" and found["settings"] == {"temperature": 0.5}
    assert found["head"] == answer["id"] and [m["content"] for m in found["messages"]] == ["hé\u2603", "a", "b"]
    assert found["messages"][1]["meta"] == {"seed": 3} and found["messages"][1]["parent"] == question["id"]
    assert ask("GET", "/api/conversations")["conversations"][0]["n_message"] == 3
    ask("DELETE", path, status=204)
    ask("GET", path, status=404)
    ask("DELETE", path, status=404)


# ---- answers ----


def test_streams_say_what_whole_answers_say(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))
    try:
        for i in range(6):
            body = chat("question %d" % i, max_tokens=40, seed=i, temperature=1.5 if i % 2 else 0, logprobs=True,
                        top_logprobs=2, n=1 + i % 3, stop=["e", "zz"] if i > 3 else None)
            whole = server.post("/v1/chat/completions", body).json()
            texts, reasons, scored, usage = {}, {}, {}, None
            last = None
            for event in server.events("/v1/chat/completions",
                                       dict(body, stream=True, stream_options={"include_usage": True})):
                last = event
                if event == "[DONE]":
                    break
                for choice in event["choices"]:
                    k = choice["index"]
                    texts[k] = texts.get(k, "") + choice["delta"].get("content", "")
                    scored[k] = scored.get(k, []) + (choice["logprobs"] or {"content": []})["content"]
                    reasons[k] = choice["finish_reason"] or reasons.get(k)
                usage = event.get("usage", usage)
            assert last == "[DONE]"
            for choice in whole["choices"]:
                k = choice["index"]
                assert texts[k] == choice["message"]["content"]
                assert reasons[k] == choice["finish_reason"]
                assert scored[k] == choice["logprobs"]["content"]
                assert not any(stop in texts[k] for stop in body["stop"] or [])
            if i <= 3:
                assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]
    finally:
        assert server.stop() == 0


def test_the_answer_is_that_of_the_terminal(program, work):
    """generate and the server choose the same tokens."""
    model = make_model(program, work + "/m")
    server = Server(program, "--model", model)
    try:
        for seed in range(3):
            out = subprocess.run([program, "generate", "--model", model, "--prompt", "once upon", "--max-tokens", "30",
                                  "--temperature", "0.9", "--top-p", "0.95", "--seed", str(seed), "--json"], check=True,
                                 stdout=subprocess.PIPE).stdout
            want = json.loads(out.splitlines()[-1])
            got = server.post("/v1/completions", {"prompt": "once upon", "max_tokens": 30, "temperature": 0.9,
                                                  "top_p": 0.95, "seed": seed, "logprobs": 0}).json()["choices"][0]
            assert got["logprobs"]["token_logprobs"] == want["logprobs"][:len(got["logprobs"]["token_logprobs"])]
    finally:
        assert server.stop() == 0


def test_echo_scores_the_prompt(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))
    try:
        text = "the cat sat on the mat"
        scored = server.post("/v1/completions", {"prompt": text, "max_tokens": 0, "echo": True,
                                                 "logprobs": 5}).json()["choices"][0]
        assert scored["text"] == text and len(scored["logprobs"]["tokens"]) == len(text)
        assert scored["logprobs"]["token_logprobs"][0] is None
        assert scored["logprobs"]["text_offset"] == list(range(len(text)))
        for i in range(1, len(text)):  # each token's is that of a request which ends before it
            one = server.post("/v1/completions", {"prompt": text[:i], "max_tokens": 1, "temperature": 0,
                                                  "logprobs": 20, "logit_bias": {str(i): -100 for i in range(256, 260)}}).json()["choices"][0]["logprobs"]
            token, wanted = scored["logprobs"]["tokens"][i], scored["logprobs"]["token_logprobs"][i]
            if token in one["top_logprobs"][0]:
                assert abs(one["top_logprobs"][0][token] - wanted) < 1e-5, (i, token)
        # The token behind the prompt is there also when it ends the answer: lm_eval leaves one out.
        body = {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1, "logit_bias": {"256": 100}}
        ended = server.post("/v1/completions", body).json()["choices"][0]
        assert ended["finish_reason"] == "stop" and ended["text"] == text
        assert ended["logprobs"]["tokens"][len(text):] == ["<|endoftext|>"]
        assert ended["logprobs"]["token_logprobs"][1:len(text)] == scored["logprobs"]["token_logprobs"][1:]
        events = [e["choices"][0] for e in server.events("/v1/completions", dict(body, stream=True)) if e != "[DONE]"]
        assert sum((e["logprobs"]["tokens"] for e in events if e["logprobs"]), []) == ended["logprobs"]["tokens"]
    finally:
        assert server.stop() == 0


def test_embeddings_are_of_length_one(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))
    try:
        data = server.post("/v1/embeddings", {"input": ["one text", "another", "one text"]}).json()["data"]
        vectors = [d["embedding"] for d in data]
        assert vectors[0] == vectors[2] != vectors[1]
        for v in vectors:
            assert abs(math.fsum(x * x for x in v) - 1) < 1e-9
        packed = server.post("/v1/embeddings", {"input": "one text", "encoding_format": "base64"}).json()
        raw = base64.b64decode(packed["data"][0]["embedding"])
        values = struct.unpack("<%df" % (len(raw) // 4), raw)
        assert len(values) == len(vectors[0])
        assert all(abs(a - b) < 1e-6 for a, b in zip(values, vectors[0]))
    finally:
        assert server.stop() == 0


def test_penalties_and_bias_change_the_choice(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))
    try:
        def ids(**more):
            reply = server.post("/v1/completions", dict({"prompt": "abc", "max_tokens": 30, "temperature": 0,
                                                         "logprobs": 0}, **more)).json()
            return reply["choices"][0]["logprobs"]["tokens"]
        assert set(ids(logit_bias={"120": 100})) == {"x"}
        assert "x" not in ids(logit_bias={"120": -100})
        plain = ids(frequency_penalty=0)
        spread = ids(logit_bias={"120": 8, "121": 7.5, "122": 7}, presence_penalty=2, frequency_penalty=2)
        assert spread[:3] != ["x", "x", "x"] and "y" in spread and plain
    finally:
        assert server.stop() == 0


def test_without_the_cache_the_answer_is_the_same(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))
    try:
        for seed in range(3):
            body = chat("hello", max_tokens=25, seed=seed)
            on = server.post("/v1/chat/completions", body).json()
            off = server.post("/v1/chat/completions", dict(body, kv_cache=False)).json()
            assert on["choices"] == off["choices"] and off["moonlight"]["kv_cache"] is False
    finally:
        assert server.stop() == 0


def test_routing_of_an_answer(program, work):
    server = Server(program, "--model", make_model(program, work + "/m", layers=3))
    try:
        body = chat("hello", max_tokens=12, seed=4)
        plain = server.post("/v1/chat/completions", body).json()
        traced = server.post("/v1/chat/completions", dict(body, trace=True)).json()
        assert plain["choices"] == traced["choices"]
        trace = server.get("/api/trace/" + traced["moonlight"]["trace_id"]).json()
        answer = [t for t in trace["tokens"] if not t["prompt"]]
        assert len(answer) == traced["usage"]["completion_tokens"] and trace["layers"] == [0, 1, 2]
        assert len(trace["tokens"]) == traced["usage"]["total_tokens"]
        for token in trace["tokens"][:-1]:
            for layer in token["layers"]:
                assert len(set(layer["experts"])) == trace["top_k"] and layer["margin"] >= 0
                assert 0 <= layer["entropy"] <= math.log(trace["n_expert"]) + 1e-6
        assert trace["tokens"][-1]["layers"] == []
        for l, counts in enumerate(trace["usage"]):
            assert sum(counts) == trace["top_k"] * (len(trace["tokens"]) - 1)
            for e, n in enumerate(counts):
                assert n == sum(e in t["layers"][l]["experts"] for t in trace["tokens"][:-1])
        one = server.get("/api/trace/%s?layer=1&prompt=0" % trace["id"]).json()
        assert one["layers"] == [1] and len(one["tokens"]) == len(answer)
        assert one["tokens"][0]["layers"][0] == answer[0]["layers"][1]
        live = []
        for event in server.events("/v1/chat/completions", dict(body, trace=True, stream=True)):
            live += event["moonlight"]["tokens"] if "moonlight" in event else []
        assert [t["id"] for t in live] == [t["id"] for t in answer]
        for got, want in zip(live, answer):
            tops = [layer["experts"][layer["weights"].index(max(layer["weights"]))] for layer in want["layers"]]
            assert got["experts"] == tops
    finally:
        assert server.stop() == 0


def test_a_prefix_is_read_once(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))
    try:
        text = "x" * 600
        first = server.post("/v1/completions", {"prompt": text, "max_tokens": 1, "seed": 1}).json()
        second = server.post("/v1/completions", {"prompt": text + "y", "max_tokens": 1, "seed": 1}).json()
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == 592
    finally:
        assert server.stop() == 0


def test_answers_keep_to_a_schema(program, work):
    server = Server(program, "--model", make_model(program, work + "/m"))
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer"},
              "ok": {"type": "boolean"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}},
              "required": ["name", "n", "ok", "tags"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": schema}}
    try:
        for seed in range(8):
            body = chat("give", seed=seed, max_tokens=200, response_format=form, temperature=1.5 if seed % 2 else 0)
            choice = server.post("/v1/chat/completions", body).json()["choices"][0]
            assert choice["finish_reason"] == "stop", choice
            value = json.loads(choice["message"]["content"])
            assert list(value) == ["name", "n", "ok", "tags"] and type(value["n"]) is int
            assert len(value["name"]) <= 8 and type(value["ok"]) is bool and set(value["tags"]) <= {"a", "b"}
            text = "".join(e["choices"][0]["delta"].get("content", "") for e in
                           server.events("/v1/chat/completions", dict(body, stream=True)) if e != "[DONE]")
            assert text == choice["message"]["content"]
        text = server.post("/v1/completions", {"prompt": "x", "max_tokens": 60, "seed": 1,
                                               "response_format": {"type": "json_object"}}).json()["choices"][0]["text"]
        assert text.startswith("{")
        for bad in ({"type": "string", "pattern": "(?=a)"}, {"type": "integer", "multipleOf": 0.3}, {"not": {}}, False,
                    {"oneOf": [{"minimum": 1}, {"maximum": 2}]}, {"type": "array", "uniqueItems": True}):
            reply = server.post("/v1/chat/completions", chat("x", response_format={
                "type": "json_schema", "json_schema": {"name": "x", "schema": bad}}))
            assert reply.status == 400 and reply.json()["error"]["param"].startswith("response_format")
    finally:
        assert server.stop() == 0


def test_what_clients_ask_of_a_schema(program, work):
    """Values by keywords that code generators send, judged by Python's own modules."""
    schemas = {
        "date": ({"format": "date"}, datetime.date.fromisoformat),
        "time": ({"format": "time"}, lambda v: datetime.time.fromisoformat(v[:8])),
        "moment": ({"type": "string", "format": "date-time"}, lambda v: datetime.datetime.fromisoformat(v[:19])),
        "uuid": ({"type": "string", "format": "uuid"}, uuid.UUID),
        "v4": ({"format": "ipv4"}, ipaddress.IPv4Address),
        "v6": ({"format": "ipv6"}, ipaddress.IPv6Address),
        "mail": ({"format": "email"}, lambda v: re.fullmatch(r"[^@ ]+@([a-zA-Z0-9-]+\.)+[a-zA-Z]+", v) or 1 / 0),
        "code": ({"pattern": "^(ab|[c-f]{2,4}\\d)+$", "maxLength": 20},
                 lambda v: (re.search(r"^(ab|[c-f]{2,4}\d)+$", v) and len(v) <= 20) or 1 / 0),
        "found": ({"pattern": "x.y", "maxLength": 12}, lambda v: re.search("x.y", v) or 1 / 0),
        "month": ({"type": "integer", "minimum": 1, "maximum": 12}, lambda v: 1 <= v <= 12 or 1 / 0),
        "odd": ({"type": "integer", "exclusiveMinimum": -1000, "maximum": 357, "multipleOf": 7},
                lambda v: (-1000 < v <= 357 and v % 7 == 0) or 1 / 0),
        "share": ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, lambda v: 0 < v < 1 or 1 / 0),
        "wide": ({"type": "number", "minimum": -12.5, "maximum": 1e6}, lambda v: -12.5 <= v <= 1e6 or 1 / 0),
        "price": ({"type": "number", "minimum": 0, "multipleOf": 0.01}, lambda v: round(v, 2) == v or 1 / 0),
        "either": ({"oneOf": [{"type": "null"}, {"$ref": "#/$defs/kind"}]}, lambda v: v in (None, "p", "q") or 1 / 0),
        "both": ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, lambda v: 3 <= v <= 5 or 1 / 0),
        "map": ({"type": "object", "propertyNames": {"pattern": "^[ab]{1,3}$"}, "maxProperties": 2,
                 "additionalProperties": {"type": "boolean"}},
                lambda v: all(re.fullmatch("[ab]{1,3}", k) and type(b) is bool for k, b in v.items()) or 1 / 0),
    }
    whole = {"type": "object", "properties": {k: s for k, (s, _) in schemas.items()}, "required": list(schemas),
             "$defs": {"kind": {"enum": ["p", "q"]}}}
    form = {"type": "json_schema", "json_schema": {"name": "all", "schema": whole}}
    server = Server(program, "--model", make_model(program, work + "/m", context=4000))
    try:
        for seed in range(4):
            choice = server.post("/v1/completions", {"prompt": "x", "seed": seed, "max_tokens": 3000, "temperature": 1.3,
                                                     "response_format": form}).json()["choices"][0]
            assert choice["finish_reason"] == "stop", choice
            value = json.loads(choice["text"])
            for key, (schema, check) in schemas.items():
                try:
                    check(value[key])
                except Exception as error:
                    raise AssertionError("%s: %r: %s" % (key, value[key], error))
    finally:
        assert server.stop() == 0


def test_tools_are_called(program, work):
    """A model that always calls the tool x, and nothing else (make_parrot)."""
    parrot = os.environ.get("MAKE_PARROT")
    assert parrot, "MAKE_PARROT names the program"
    tokens = ["<|im_middle|>", "H", "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "x", ":", "0",
              "<|tool_call_argument_begin|>", "{", "}", "<|tool_call_end|>", "<|tool_calls_section_end|>",
              "<|im_end|>"]
    fixtures = os.path.join(os.path.dirname(DOCUMENT), "..", "tests", "fixtures", "byte_tokenizer")
    subprocess.run([parrot, fixtures, work + "/parrot", "kimi", *tokens], check=True)
    server = Server(program, "--model", work + "/parrot")
    try:
        tools = [{"type": "function", "function": {"name": "x", "parameters": {"type": "object"}}}]
        body = chat("weather?", tools=tools, temperature=0)
        choice = server.post("/v1/chat/completions", body).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "H"
        call = choice["message"]["tool_calls"][0]
        assert call["function"] == {"name": "x", "arguments": "{}"} and call["id"] == "x:0"
        name, arguments, reason = "", "", None
        for event in server.events("/v1/chat/completions", dict(body, stream=True)):
            if event == "[DONE]":
                break
            for part in event["choices"][0]["delta"].get("tool_calls", []):
                name += part["function"].get("name", "")
                arguments += part["function"]["arguments"]
            reason = event["choices"][0]["finish_reason"] or reason
        assert (name, arguments, reason) == ("x", "{}", "tool_calls")
        messages = body["messages"] + [choice["message"], {"role": "tool", "tool_call_id": "x:0", "content": "sunny"}]
        assert server.post("/v1/chat/completions", dict(body, messages=messages)).status == 200
    finally:
        assert server.stop() == 0


def make_chatty(work):
    """A model with Kimi's marks that says one token as gladly as another (make_parrot)."""
    parrot = os.environ.get("MAKE_PARROT")
    assert parrot, "MAKE_PARROT names the program"
    fixtures = os.path.join(os.path.dirname(DOCUMENT), "..", "tests", "fixtures", "byte_tokenizer")
    subprocess.run([parrot, fixtures, work + "/chatty", "kimi", "a", "b"], check=True)
    return work + "/chatty"


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "day": {"type": "integer", "minimum": 1,
                                                                                "maximum": 31}},
    "required": ["city", "day"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "additionalProperties": False}}}]


def check_calls(message, names=("weather", "now"), first=0):
    calls = message.get("tool_calls", [])
    assert [c["id"] for c in calls] == ["functions.%s:%d" % (c["function"]["name"], first + i)
                                        for i, c in enumerate(calls)]
    for c in calls:
        name, arguments = c["function"]["name"], json.loads(c["function"]["arguments"])
        assert name in names, name
        if name == "now":
            assert arguments == {}
        else:
            assert list(arguments) == ["city", "day"] and arguments["city"] in ("Rome", "Oslo")
            assert type(arguments["day"]) is int and 1 <= arguments["day"] <= 31
    return len(calls)


def test_a_call_can_be_required(program, work):
    server = Server(program, "--model", make_chatty(work))
    ask = "/v1/chat/completions"
    try:
        counts, named = set(), set()
        for seed in range(10):
            body = chat("q", tools=TOOLS, tool_choice="required", seed=seed, max_tokens=3000, n=1 + seed % 2,
                        logprobs=True, top_logprobs=2, stop=["o"], temperature=1 if seed % 4 else 0)
            reply = server.post(ask, body).json()
            for choice in reply["choices"]:
                assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
                counts.add(check_calls(choice["message"]))
                named |= {c["function"]["name"] for c in choice["message"]["tool_calls"]}
                assert len(choice["logprobs"]["content"]) > 5
            parts = {}
            for event in server.events(ask, dict(body, stream=True)):
                for choice in event["choices"] if event != "[DONE]" else []:
                    for call in choice["delta"].get("tool_calls", []):
                        key = (choice["index"], call["index"])
                        old = parts.setdefault(key, {"name": "", "arguments": ""})
                        for k, v in call["function"].items():
                            old[k] += v
            assert parts == {(c["index"], i): one["function"] for c in reply["choices"]
                             for i, one in enumerate(c["message"]["tool_calls"])}
            one = server.post(ask, dict(body, parallel_tool_calls=False)).json()["choices"][0]["message"]
            assert check_calls(one) == 1
            only = server.post(ask, dict(body, tool_choice={"type": "function", "function": {"name": "now"}})).json()
            assert check_calls(only["choices"][0]["message"], names=("now",)) >= 1
        assert max(counts) > 1 and named == {"weather", "now"}, (counts, named)
    finally:
        assert server.stop() == 0


def test_strict_tools_and_formats_beside_calls(program, work):
    """Without tool_choice: text, or calls whose arguments a strict tool accepts; with a response_format a value or calls."""
    server = Server(program, "--model", make_chatty(work))
    ask = "/v1/chat/completions"
    strict = json.loads(json.dumps(TOOLS))
    for tool in strict:
        tool["function"]["strict"] = True
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    # Marks gladly, so that calls come: what may come is the grammar's.
    marks = {str(i): 6 for i in range(260, 275)}
    try:
        kinds = set()
        for seed in range(30):
            body = chat("q", tools=strict, seed=seed, max_tokens=3000, logit_bias=marks)
            choice = server.post(ask, body).json()["choices"][0]
            kinds.add(choice["finish_reason"])
            if choice["finish_reason"] == "tool_calls":
                check_calls(choice["message"])
            choice = server.post(ask, dict(body, response_format=form, logit_bias={})).json()["choices"][0]
            if choice["finish_reason"] == "tool_calls":
                kinds.add("form")
                assert choice["message"]["content"] is None
            else:
                assert choice["message"]["content"] in ('"yes"', '"no"'), choice
        assert kinds >= {"tool_calls", "form"}, kinds
    finally:
        assert server.stop() == 0


def test_calls_that_cannot_be_required(program, work):
    server = Server(program, "--model", make_chatty(work), "--model", make_model(program, work + "/plain"))
    bad = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
        "a": {"not": {}}}}}}]
    text = [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]
    try:
        for more, param in (({"tool_choice": "required"}, "tool_choice"),
                            ({"tool_choice": "required", "tools": []}, "tool_choice"),
                            ({"tool_choice": "any", "tools": TOOLS}, "tool_choice"),
                            ({"tool_choice": {"type": "function"}, "tools": TOOLS}, "tool_choice"),
                            ({"tool_choice": {"type": "function", "function": {"name": "none"}}, "tools": TOOLS}, "tools"),
                            ({"tool_choice": "required", "tools": bad}, "tools"),
                            ({"tool_choice": "required", "tools": text}, "tools"),
                            ({"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}],
                              "tool_choice": "required"}, "tools"),
                            ({"parallel_tool_calls": 1, "tools": TOOLS}, "parallel_tool_calls")):
            reply = server.post("/v1/chat/completions", chat("q", max_tokens=5, **more))
            assert reply.status == 400 and reply.json()["error"]["param"] == param, (more, reply.body)
        assert server.post("/v1/chat/completions", chat("q", max_tokens=5, tools=bad)).status == 200  # only declared
        reply = server.post("/v1/chat/completions", chat("q", model="plain", tools=TOOLS, tool_choice="required"))
        assert reply.status == 400, reply.body
    finally:
        assert server.stop() == 0


if __name__ == "__main__":
    run(sys.modules[__name__])
