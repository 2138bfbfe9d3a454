#!/usr/bin/env python3
"""The official openai client against the server: what its calls return is what the server's own tests say it should be,
read by somebody else's code.

    MAKE_PARROT=build/release/tests/make_parrot python3 tests/interop/check_openai.py PROGRAM [TEST...]

Needs openai (and nothing from outside: the base URL is the server's)."""
import json
import math
import os
import subprocess
import sys

import openai

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "server"))
from client import FIXTURES, Server, make_model, run  # noqa: E402

USER = [{"role": "user", "content": "hello"}]


def connect(server, key="none"):
    return openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % server.port, api_key=key, max_retries=0, timeout=60)


def with_model(test):
    def wrapped(program, work):
        server = Server(program, "--model", make_model(program, work + "/m"))
        try:
            test(connect(server), server)
        finally:
            assert server.stop() == 0
    return wrapped


def raises(kind, call, **wanted):
    try:
        call()
    except kind as error:
        assert type(error) is kind, error
        for name, value in wanted.items():
            assert getattr(error, name) == value, (name, getattr(error, name), value)
        return error
    raise AssertionError("no %s" % kind.__name__)


@with_model
def test_models(client, server):
    names = [m.id for m in client.models.list()]
    assert names == ["m"], names
    one = client.models.retrieve("m")
    assert one.object == "model" and one.owned_by == "moonlight" and one.created > 0
    raises(openai.NotFoundError, lambda: client.models.retrieve("other"))


@with_model
def test_chat(client, server):
    whole = client.chat.completions.create(model="m", messages=USER, max_tokens=30, temperature=0.9, top_p=0.95, seed=5,
                                           logprobs=True, top_logprobs=3, n=2)
    assert whole.object == "chat.completion" and len(whole.choices) == 2
    assert whole.choices[0].message.role == "assistant" and whole.choices[0].message.content
    assert whole.choices[0].message.content != whole.choices[1].message.content
    tokens = whole.choices[0].logprobs.content
    assert "".join(t.token for t in tokens) == whole.choices[0].message.content or any(t.bytes for t in tokens)
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 3 for t in tokens)
    assert all(t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob for t in tokens)
    usage = whole.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens <= 60
    again = client.chat.completions.create(model="m", messages=USER, max_tokens=30, temperature=0.9, top_p=0.95, seed=5,
                                           logprobs=True, top_logprobs=3, n=2)
    assert [c.message.content for c in again.choices] == [c.message.content for c in whole.choices]


@with_model
def test_chat_stream_with_usage(client, server):
    body = dict(model="m", messages=USER, max_tokens=40, seed=3)
    whole = client.chat.completions.create(**body)
    text, reason, usage, role = "", None, None, None
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **body):
        assert chunk.object == "chat.completion.chunk"
        for choice in chunk.choices:
            text += choice.delta.content or ""
            role = choice.delta.role or role
            reason = choice.finish_reason or reason
        usage = chunk.usage or usage
    assert (text, reason, role) == (whole.choices[0].message.content, whole.choices[0].finish_reason, "assistant")
    assert usage.completion_tokens == whole.usage.completion_tokens and usage.prompt_tokens == whole.usage.prompt_tokens


@with_model
def test_stream_helper_puts_a_message_together(client, server):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "no", "neither of them"]}}}
    body = dict(model="m", messages=USER, seed=8, response_format=form)  # it ends by itself, as the helper wants it
    with client.chat.completions.stream(**body) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message.content
    assert "".join(pieces) == final == client.chat.completions.create(**body).choices[0].message.content
    assert json.loads(final) in ("yes", "no", "neither of them")


@with_model
def test_leaving_a_stream_frees_its_slot(client, server):
    for i in range(20):
        stream = client.chat.completions.create(model="m", messages=USER, max_tokens=900, seed=i, stream=True)
        next(iter(stream))
        stream.close()
    done = client.chat.completions.create(model="m", messages=USER, max_tokens=2)
    assert done.usage.completion_tokens <= 2
    assert server.metric("cancelled_total") > 0


@with_model
def test_completions_echo_and_logprobs(client, server):
    text = "the cat sat on the mat"
    done = client.completions.create(model="m", prompt=text, max_tokens=5, echo=True, logprobs=4, temperature=0)
    choice = done.choices[0]
    assert done.object == "text_completion" and choice.text.startswith(text)
    scores = choice.logprobs
    assert scores.token_logprobs[0] is None and all(x <= 0 for x in scores.token_logprobs[1:])
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.text_offset) == len(scores.top_logprobs)
    assert scores.text_offset[:len(text)] == list(range(len(text)))
    for token, score, top in zip(scores.tokens[len(text):], scores.token_logprobs[len(text):],
                                 scores.top_logprobs[len(text):]):
        assert score == max(top.values()) and token in top  # temperature 0: the likeliest
    only = client.completions.create(model="m", prompt=text, max_tokens=0, echo=True, logprobs=0).choices[0]
    assert only.text == text and only.logprobs.token_logprobs == scores.token_logprobs[:len(text)]
    many = client.completions.create(model="m", prompt=["one", "two"], max_tokens=4, n=2, seed=1)
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    streamed = ""
    for chunk in client.completions.create(model="m", prompt=text, max_tokens=12, seed=2, stream=True):
        streamed += "".join(c.text for c in chunk.choices)
    assert streamed == client.completions.create(model="m", prompt=text, max_tokens=12, seed=2).choices[0].text


@with_model
def test_embeddings(client, server):
    texts = ["one text", "another"]
    packed = client.embeddings.create(model="m", input=texts)  # the client asks for base64 and unpacks it
    plain = client.embeddings.create(model="m", input=texts, encoding_format="float")
    assert [d.index for d in packed.data] == [0, 1] and packed.usage.prompt_tokens == sum(map(len, texts))
    for a, b in zip(packed.data, plain.data):
        assert abs(math.fsum(x * x for x in b.embedding) - 1) < 1e-9
        # fp32 on the way: half a unit in the last place of numbers up to 1
        assert len(a.embedding) == len(b.embedding)
        assert all(abs(x - y) < 6e-8 for x, y in zip(a.embedding, b.embedding))


@with_model
def test_json_schema(client, server):
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "degrees": {"type": "integer"},
              "sky": {"enum": ["clear", "cloudy"]}}, "required": ["city", "degrees", "sky"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": schema}}
    for seed in range(4):
        choice = client.chat.completions.create(model="m", messages=USER, seed=seed, max_tokens=200, temperature=1.3,
                                                response_format=form).choices[0]
        value = json.loads(choice.message.content)
        assert choice.finish_reason == "stop" and list(value) == ["city", "degrees", "sky"]
        assert type(value["degrees"]) is int and value["sky"] in ("clear", "cloudy") and len(value["city"]) <= 12
    # A shape like the ones the client makes of a data class, with a reference.
    nested = {"type": "object", "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/one"}, "minItems": 1,
              "maxItems": 2}}, "required": ["items"], "additionalProperties": False,
              "$defs": {"one": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                                "additionalProperties": False}}}
    value = json.loads(client.chat.completions.create(
        model="m", messages=USER, seed=1, max_tokens=300, response_format={
            "type": "json_schema", "json_schema": {"name": "list", "schema": nested}}).choices[0].message.content)
    assert 1 <= len(value["items"]) <= 2 and all(type(i["ok"]) is bool for i in value["items"])


def test_tools(program, work):
    """A model that always calls the tool x (tests/cli/make_parrot.c)."""
    tokens = ["<|im_middle|>", "H", "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "x", ":", "0",
              "<|tool_call_argument_begin|>", "{", "}", "<|tool_call_end|>", "<|tool_calls_section_end|>", "<|im_end|>"]
    subprocess.run([os.environ["MAKE_PARROT"], FIXTURES, work + "/parrot", "kimi", *tokens], check=True)
    server = Server(program, "--model", work + "/parrot")
    client = connect(server)
    try:
        tools = [{"type": "function", "function": {"name": "x", "description": "the weather",
                                                   "parameters": {"type": "object", "properties": {}}}}]
        messages = [{"role": "user", "content": "weather?"}]
        choice = client.chat.completions.create(model="parrot", messages=messages, tools=tools, temperature=0).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content == "H"
        call = choice.message.tool_calls[0]
        assert (call.type, call.function.name, call.function.arguments) == ("function", "x", "{}")
        with client.chat.completions.stream(model="parrot", messages=messages, tools=tools, temperature=0) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_completion().choices[0]
        assert streamed.finish_reason == "tool_calls"
        assert streamed.message.tool_calls[0].function.name == "x"
        assert streamed.message.tool_calls[0].function.arguments == "{}"
        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        assert client.chat.completions.create(model="parrot", messages=messages, tools=tools, max_tokens=4).choices
    finally:
        assert server.stop() == 0


@with_model
def test_errors(client, server):
    def ask(**more):
        return lambda: client.chat.completions.create(**dict(dict(model="m", messages=USER, max_tokens=2), **more))
    raises(openai.NotFoundError, ask(model="other"))
    raises(openai.BadRequestError, ask(temperature=-1), param="temperature", type="invalid_request_error")
    raises(openai.BadRequestError, ask(extra_body={"no_such_key": 1}), param="no_such_key")
    raises(openai.BadRequestError, ask(messages=[]), param="messages")
    error = raises(openai.BadRequestError, ask(messages=[{"role": "user", "content": "x" * 3000}]))
    assert "1024" in str(error) and "30" in str(error)  # both numbers
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "not": {"required": ["a"]}}}}
    raises(openai.BadRequestError, ask(response_format=form))


def test_keys(program, work):
    with open(work + "/keys", "w") as file:
        file.write("a-secret-of-some-length\n")
    server = Server(program, "--model", make_model(program, work + "/m"), "--api-key-file", work + "/keys")
    try:
        raises(openai.AuthenticationError, lambda: connect(server, "wrong").models.list())
        assert [m.id for m in connect(server, "a-secret-of-some-length").models.list()] == ["m"]
    finally:
        assert server.stop() == 0


if __name__ == "__main__":
    run(sys.modules[__name__])
