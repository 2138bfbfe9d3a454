"""What the tests of the server share: a server of its own on a free port, and HTTP with nothing but the standard
library.  A test is a function named test_*; run() runs all of a file and exits with their number of failures."""
import array
import http.client
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "byte_tokenizer")


def make_model(program, folder, *settings, layers=2, context=1024):
    """A small model with random weights and a byte tokenizer."""
    subprocess.run([program, "init", "nano-moe", folder, "--model.vocab_size", "260", "--model.num_hidden_layers",
                    str(layers), "--model.eos_token_id", "256", "--model.max_position_embeddings", str(context),
                    *settings], check=True, stderr=subprocess.DEVNULL)
    for name in os.listdir(FIXTURES):
        shutil.copy(os.path.join(FIXTURES, name), folder)
    return folder


def make_adapter(model, folder, seed, strength=0.3, modules=("q_proj", "o_proj"), rank=4):
    """A LoRA adapter of a small model as PEFT writes it, with random terms that change its answers."""
    with open(model + "/config.json") as file:
        config = json.load(file)
    width, heads = config["hidden_size"], config["num_attention_heads"] * config["head_dim"]
    shapes = {"q_proj": (heads, width), "o_proj": (width, heads)}
    rng, header, data = random.Random(seed), {}, b""
    for layer in range(config["num_hidden_layers"]):
        for module in modules:
            rows, cols = shapes[module]
            for name, shape in (("lora_A", (rank, cols)), ("lora_B", (rows, rank))):
                values = array.array("f", (rng.gauss(0, strength) for _ in range(shape[0] * shape[1])))
                key = "base_model.model.model.layers.%d.self_attn.%s.%s.weight" % (layer, module, name)
                header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
                data += values.tobytes()
    os.makedirs(folder, exist_ok=True)
    with open(folder + "/adapter_config.json", "w") as file:
        json.dump({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(modules)}, file)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder + "/adapter_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    return folder


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Server:
    def __init__(self, program, *arguments, store="none", env=None, threads="2"):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([program, "serve", "--port", "0", "--store", store, "--threads", threads,
                                         *arguments], stdout=subprocess.PIPE, stderr=self.log,
                                        env=dict(os.environ, **(env or {})))
        line = self.process.stdout.readline().decode().strip()
        if not line.startswith("http://"):
            self.process.wait()
            raise RuntimeError("no server: " + self.messages())
        self.port = int(line.rsplit(":", 1)[1])

    def messages(self):
        self.log.seek(0)
        return self.log.read().decode()

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        reply = Reply(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return reply

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body, **more):
        return self.request("POST", path, body, **more)

    def events(self, path, body, method="POST", timeout=60):
        """The data of an event stream, parsed; the last of an answer is "[DONE]"."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.getheader("Content-Type").startswith("text/event-stream")
        for line in answer:
            if line.startswith(b"data: "):
                text = line[6:].strip()
                yield text.decode() if text == b"[DONE]" else json.loads(text)
        connection.close()

    def metric(self, name):
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith("moonlight_" + name):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

    def raw(self, data, timeout=10):
        """Send bytes, and return all that comes back until the server closes or a second passes without a byte."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            try:
                connection.sendall(data)
            except OSError:
                pass
            connection.settimeout(1)
            out = b""
            try:
                while True:
                    piece = connection.recv(65536)
                    if not piece:
                        break
                    out += piece
            except OSError:
                pass
            return out

    def stop(self):
        """Ctrl-C; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait(timeout=30)
        self.process.stdout.close()
        return status

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def chat(text, **more):
    return dict({"messages": [{"role": "user", "content": text}]}, **more)


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


class Watchman:
    """Asks for /health all the while (with ...:); that it was answered within a second is checked at the end.  Time in
    which this process did not run itself does not count: then the machine was busy, or stopped."""

    def __init__(self, server):
        self.server, self.over, self.slowest, self.asleep, self.failure = server, threading.Event(), 0.0, 0.0, None
        self.threads = [threading.Thread(target=f) for f in (self.tick, self.watch)]

    def tick(self):
        last = time.monotonic()
        while not self.over.wait(0.01):
            now = time.monotonic()
            self.asleep += max(0, now - last - 0.1)
            last = now

    def asleep_since(self, before):
        time.sleep(0.05)  # so that it is known
        return self.asleep - before

    def watch(self):
        while not self.over.is_set():
            start, asleep = time.monotonic(), self.asleep
            try:
                assert self.server.get("/health", timeout=100).status in (200, 503)  # 503: without a model
            except Exception as error:  # a test that dies in a thread must not pass
                self.failure = self.failure or error
            seconds = time.monotonic() - start
            self.slowest = max(self.slowest, seconds - self.asleep_since(asleep))

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        for t in self.threads:
            t.join()
        if kind is None:
            assert self.failure is None, self.failure
            assert self.slowest < 1, "/health was answered after %.2f s" % self.slowest


class Watched(Server):
    """A server with a watchman."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.watchman = Watchman(self).__enter__()

    def stop(self):
        try:
            self.watchman.__exit__(None)
        finally:
            status = super().stop()
        return status


def run_one(program, name, test):
    """Whether it passed."""
    work = tempfile.mkdtemp(prefix="moonlight-server-")
    start = time.monotonic()
    try:
        test(program, work)
        print("ok   %s (%.1f s)" % (name, time.monotonic() - start), flush=True)
        return True
    except Exception:
        print("FAIL %s\n%s" % (name, traceback.format_exc()), flush=True)
        return False
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(module, beside=()):
    """Run the test_* functions of a module, in order, but for those of `beside`, which mostly wait and run beside the
    others; argv[1] is the program, further ones are names to run."""
    program, names = sys.argv[1], sys.argv[2:]
    tests = [(n, t) for n, t in vars(module).items() if n.startswith("test_") and (not names or n in names)]
    passed = []
    threads = [threading.Thread(target=lambda n=n, t=t: passed.append(run_one(program, n, t)))
               for n, t in tests if n in beside]
    for t in threads:
        t.start()
    for n, t in tests:
        if n not in beside:
            passed.append(run_one(program, n, t))
    for t in threads:
        t.join()
    sys.exit(0 if all(passed) and len(passed) == len(tests) else 1)
