#!/usr/bin/env python3
"""Adapters, each a model of its own name: chosen by request, loaded and unloaded, in a crowd.
check_adapters.py PROGRAM [TEST...]"""
import json
import os
import shutil
import subprocess
import sys
import threading

from client import Server, chat, make_adapter, make_model, run, wait_until


def make_two(program, work):
    model = make_model(program, work + "/m")
    return model, make_adapter(model, work + "/a", 1), make_adapter(model, work + "/b", 2)


def terminal(program, model, adapter, prompt, seed, n=24):
    """What `generate` says: the answer's log-probabilities, which tell its tokens apart better than their text."""
    more = ["--adapter", adapter] if adapter else []
    out = subprocess.run([program, "generate", "--model", model, *more, "--prompt", prompt, "--max-tokens", str(n),
                          "--temperature", "0.9", "--top-p", "0.95", "--seed", str(seed), "--json"], check=True,
                         stdout=subprocess.PIPE).stdout
    return json.loads(out.splitlines()[-1])["logprobs"]


def served(server, model, prompt, seed, n=24):
    reply = server.post("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": n, "temperature": 0.9,
                                            "top_p": 0.95, "seed": seed, "logprobs": 0})
    assert reply.status == 200, reply.body
    assert reply.json()["model"] == model
    return reply.json()["choices"][0]["logprobs"]["token_logprobs"]


def same(got, want):
    return len(got) > 0 and got == want[:len(got)]  # a stop token has a log-probability, and is no part of the text


def test_each_is_a_model_of_its_own(program, work):
    model, a, b = make_two(program, work)
    server = Server(program, "--model", model, "--adapter", "one=" + a, "--adapter", b)
    try:
        listed = {m["id"]: m["parent"] for m in server.get("/v1/models").json()["data"]}
        assert listed == {"m": None, "one": "m", "b": "m"}
        assert server.get("/v1/models/one").json()["parent"] == "m"
        own = {m["id"]: m for m in server.get("/api/models").json()["models"]}
        assert own["one"]["kind"] == "adapter" and own["one"]["parent"] == "m" and own["m"]["kind"] == "model"
        assert own["one"]["adapter_kind"] == "lora" and own["one"]["n_params_adapter"] == 2 * 2 * 4 * (192 + 192)
        for prompt in ("once upon", "x" * 300):  # the second: whole pages of the cache, which must not be shared
            for seed in range(2):
                answers = [served(server, name, prompt, seed) for name in ("m", "one", "b", "one", "m")]
                for got, adapter in zip(answers, (None, a, b, a, None)):
                    assert same(got, terminal(program, model, adapter, prompt, seed)), (prompt, seed, adapter)
                assert answers[0] != answers[1] != answers[2] != answers[0]
        vectors = [server.post("/v1/embeddings", {"model": name, "input": "text"}).json() for name in ("m", "one")]
        assert vectors[0]["data"] != vectors[1]["data"] and vectors[1]["model"] == "one"
        traces = [server.post("/api/trace", {"model": name, "prompt": "text"}).json() for name in ("m", "one")]
        assert traces[0]["tokens"] != traces[1]["tokens"] and traces[1]["model"] == "one"
        assert server.post("/tokenize", {"model": "one", "content": "ab"}).json()["count"] == 2
        bench = server.post("/api/bench", {"model": "one", "prompt_tokens": 8, "gen_tokens": 4, "repeat": 1}).json()
        assert bench["equal"] and bench["model"] == "one"
        assert server.post("/v1/completions", {"model": "a", "prompt": "x"}).status == 404
    finally:
        assert server.stop() == 0


def test_loaded_and_unloaded(program, work):
    """What an adapter left in the store of prompts is not taken for another's that comes to lie where it lay."""
    model, a, b = make_two(program, work)
    live, prompt = work + "/live", "y" * 400
    shutil.copytree(a, live)
    server = Server(program, "--model", model, "--adapter", "one=" + live)
    try:
        for turn in range(4):
            now = (a, b)[turn % 2]
            for seed in range(2):  # the second finds the prompt's pages in the store
                assert same(served(server, "one", prompt, seed), terminal(program, model, now, prompt, seed)), turn
            gone = server.post("/api/models/unload", {"id": "one"})
            assert gone.status == 200 and gone.json()["state"] == "available" and gone.json()["kind"] == "adapter"
            assert server.post("/v1/completions", {"model": "one", "prompt": "x"}).status == 404
            shutil.rmtree(live)
            shutil.copytree((b, a)[turn % 2], live)
            loaded = server.post("/api/models/load", {"id": "one"})
            assert loaded.status == 200 and loaded.json()["state"] == "loaded", loaded.body
    finally:
        assert server.stop() == 0


def test_a_run_of_an_adapter(program, work):
    model, a, b = make_two(program, work)
    other = make_model(program, work + "/other", layers=1)
    step = work + "/runs/tune/step_000003"
    shutil.copytree(a, step)
    # A checkpoint is complete with its manifest; the lists of runs show no other.
    server = Server(program, "--model", model, "--model", other, "--runs", work + "/runs")
    try:
        name = "tune/step_000003"
        wrong = server.post("/api/models/load", {"id": name, "parent": "other"})
        assert wrong.status == 400 and "another model" in wrong.json()["error"]["message"], wrong.body
        assert server.post("/api/models/load", {"id": name, "parent": "none"}).status == 409
        assert server.post("/api/models/load", {"id": "other", "parent": "m"}).status == 200  # loaded already
        loaded = server.post("/api/models/load", {"id": name, "parent": "m"}).json()
        assert loaded["state"] == "loaded" and loaded["parent"] == "m" and loaded["source"] == "run"
        assert same(served(server, name, "once", 1), terminal(program, model, a, "once", 1))
        server.post("/api/models/switch", {"id": name})
        assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).json()["model"] == name
        gone = server.post("/api/models/unload", {"id": "m"})  # the model goes, and its adapters with it
        assert gone.status == 200
        assert [m["id"] for m in server.get("/v1/models").json()["data"]] == ["other"]
        assert server.post("/v1/completions", {"model": name, "prompt": "x"}).status == 404
        assert server.post("/api/models/load", {"id": "m"}).status == 200
        assert server.post("/api/models/load", {"id": name, "parent": "m"}).status == 200
        assert same(served(server, name, "once", 1), terminal(program, model, a, "once", 1))
    finally:
        assert server.stop() == 0


def test_unloading_ends_its_answers_alone(program, work):
    model, a, b = make_two(program, work)
    no_end = {str(i): -100 for i in range(256, 260)}
    server = Server(program, "--model", model, "--adapter", a, "--adapter", b)
    try:
        def begin(name):
            events = server.events("/v1/chat/completions", chat("q", model=name, stream=True, max_tokens=400, seed=1,
                                                                kv_cache=name != "a", logit_bias=no_end))
            next(events)
            return events
        streams = {name: begin(name) for name in ("m", "a", "b")}
        assert server.post("/api/models/unload", {"id": "a"}).status == 200
        rest = {name: list(s) for name, s in streams.items()}
        assert all(r[-1] == "[DONE]" for r in rest.values())
        assert "unloaded" in rest["a"][-2]["error"]["message"]
        for name in ("m", "b"):
            assert rest[name][-2]["choices"][0]["finish_reason"] == "length", rest[name][-2]
    finally:
        assert server.stop() == 0


def test_in_a_crowd(program, work):
    """Model, adapters, samplings, schemas, penalties and traces at once: each answer is that of the request alone."""
    model, a, b = make_two(program, work)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {"n": {"type": "integer"}, "t": {"enum": ["yes", "no"]}},
        "required": ["n", "t"]}}}
    server = Server(program, "--model", model, "--adapter", a, "--adapter", b, "--slots", "6", "--chunk", "64")
    try:
        bodies = []
        for i in range(16):
            body = chat("s" * (i * 17 % 300) + str(i % 5), model=("m", "a", "b")[i % 3], seed=i, max_tokens=12,
                        temperature=(0, 0.8, 1.5)[i // 3 % 3], n=1 + i % 2, logprobs=True, top_logprobs=2)
            if i % 4 == 0:
                body["response_format"] = form
            if i % 5 == 0:
                body["frequency_penalty"] = 1
            if i % 7 == 0:
                body["kv_cache"] = False
            bodies.append(body)
        alone = [server.post("/v1/chat/completions", body).json()["choices"] for body in bodies]
        together = [None] * len(bodies)

        def ask(i):
            together[i] = server.post("/v1/chat/completions", bodies[i]).json()["choices"]
        for turn in range(2):
            threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
            for t in threads[::1 if turn % 2 else -1]:
                t.start()
            for t in threads:
                t.join()
            for i, (got, want) in enumerate(zip(together, alone)):
                assert got == want, (turn, i, bodies[i])
    finally:
        assert server.stop() == 0


def test_what_does_not_fit_is_refused(program, work):
    model, a, b = make_two(program, work)
    for arguments, word, status in ((["--adapter", "x=" + a, "--adapter", "x=" + b], b"x is taken", 2),
                                    (["--adapter", "m=" + a], b"m is taken", 2),
                                    (["--adapter", "none=" + a], b"another name than none", 2),
                                    (["--adapter", work + "/nothing"], b"there is no adapter here", 2)):
        p = subprocess.run([program, "serve", "--model", model, *arguments, "--port", "0", "--store", "none"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
        assert p.returncode == status and word in p.stderr, (arguments, p.returncode, p.stderr)
    p = subprocess.run([program, "serve", "--runs", work, "--adapter", a, "--port", "0", "--store", "none"],
                       stderr=subprocess.PIPE, timeout=30)
    assert p.returncode == 2 and b"expected --model" in p.stderr, p.stderr


if __name__ == "__main__":
    run(sys.modules[__name__])
