#!/usr/bin/env python3
"""moonlight chat on a terminal (a pty): editing, history, completion, Ctrl-C, Ctrl-D.
  check_chat_terminal.py PROGRAM FIXTURES"""
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time

PROGRAM, FIXTURES = sys.argv[1:3]
PATIENCE = 60  # seconds, for a machine that is busy; nothing here is about speed
UP, LEFT, CTRL_A, CTRL_C, CTRL_D, CTRL_R, TAB = "\x1b[A", "\x1b[D", "\x01", "\x03", "\x04", "\x12", "\t"


try:
    for end in pty.openpty():
        os.close(end)
except OSError as reason:
    print("skipped: this machine has no terminals to give (%s)" % reason)
    sys.exit(77)


class Chat:
    def __init__(self, work, *arguments):
        self.text, self.at = "", 0
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # libedit does not free the names of the functions that were added to it.
            with open(work + "/leaks", "w") as file:
                file.write("leak:wcsdup\n")
            os.environ["LSAN_OPTIONS"] = "print_suppressions=0:suppressions=%s/leaks" % work
            os.environ.update(TERM="xterm-256color", XDG_STATE_HOME=work + "/state", LC_ALL="C.UTF-8", COLUMNS="100", LINES="30")
            os.execv(PROGRAM, [PROGRAM, "chat", *arguments])

    def read(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                return False
        return True

    def expect(self, pattern):
        """Wait until it is shown behind what was expected before; the match."""
        end = time.monotonic() + PATIENCE
        while True:
            found = re.compile(pattern, re.S).search(self.text, self.at)
            if found:
                self.at = found.end()
                return found
            assert time.monotonic() < end and self.read(0.2), "expected %r in %r" % (pattern, self.text[self.at:])

    def type(self, text):
        os.write(self.fd, text.encode())

    def prompt(self):
        """Wait until a line can be typed; what is typed draws its prompt again, but not on a new line."""
        self.expect(r"\n> $")
        # libedit shows its prompt before it takes the keys: until then the terminal itself swallows Ctrl-R.
        end = time.monotonic() + PATIENCE
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            assert time.monotonic() < end, "the terminal stays in its line mode"
            time.sleep(0.001)

    def enter(self, text):
        self.prompt()
        self.type(text + "\r")

    def end(self):
        while self.read(PATIENCE):
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def make_model(work, name, *settings):
    folder = work + "/" + name
    subprocess.run([PROGRAM, "init", "nano-moe", folder, "--model.vocab_size", "260", "--model.num_hidden_layers", "2",
                    *settings], check=True, stderr=subprocess.DEVNULL)
    for file in os.listdir(FIXTURES + "/byte_tokenizer"):
        shutil.copy(FIXTURES + "/byte_tokenizer/" + file, folder)
    return folder


def messages(path):
    with open(path) as file:
        return json.load(file)["messages"]


def test_editing_and_history(work):
    model = make_model(work, "m", "--model.eos_token_id", "256", "--model.max_position_embeddings", "2000")
    c = Chat(work, "--model", model, "--temperature", "0", "--max-tokens", "5")
    c.expect("Chat in the format moonlight-moe")
    c.enter("wörld" + CTRL_A + "hello ")  # in the middle of a line, and beyond ASCII
    c.enter("second" + LEFT * 3 + "X")
    c.enter(UP + UP)  # the first one again
    c.enter("not this" + CTRL_C)  # forgotten, and the program goes on
    c.type("/save %s/a.json\r" % work)
    c.expect(r"\(6 messages in ")
    c.enter("/exit")
    assert c.end() == 0
    asked = [m["content"] for m in messages(work + "/a.json") if m["role"] == "user"]
    assert asked == ["hello wörld", "secXond", "hello wörld"], asked
    history = work + "/state/moonlight/history"
    assert os.stat(history).st_mode & 0o077 == 0, "others can read the history"
    # The next time it is there, by arrow and by search.
    c = Chat(work, "--model", model, "--temperature", "0", "--max-tokens", "5")
    c.enter(UP + UP + UP)
    c.enter(CTRL_R + "Xon\r")
    c.enter("/save %s/b.json" % work)
    c.expect(r"\d messages in ")
    c.prompt()
    c.type(CTRL_D)
    assert c.end() == 0
    asked = [m["content"] for m in messages(work + "/b.json") if m["role"] == "user"]
    assert "hello wörld" in asked and "secXond" in asked, asked


def test_completion(work):
    c = Chat(work, "--model", make_model(work, "m", "--model.eos_token_id", "256"))
    c.prompt()
    c.type("/re" + TAB)
    c.expect(r"/regen\s+/reset")
    c.type("s" + TAB + "\r")
    c.expect(r"\(a new conversation\)")
    c.prompt()
    c.type("/nothing" + TAB + "\r")
    c.expect("there is no command /nothing")
    c.enter("/exit")
    assert c.end() == 0


def test_ctrl_c_stops_the_answer_and_nothing_else(work):
    # Nothing ends an answer but the context, which is long.
    model = make_model(work, "m", "--model.eos_token_id", "-1", "--model.max_position_embeddings", "30000")
    with open(model + "/tokenizer_config.json", "w") as file:
        file.write("{}")
    c = Chat(work, "--model", model, "--chat-format", "none", "--temperature", "1", "--seed", "3", "--max-tokens", "25000")
    c.expect("This model has no chat format")
    for question in ("Once", "Twice"):
        c.enter(question)
        c.expect(question + "\r\n.{30}")  # it streams
        c.type(CTRL_C)
        c.expect(r"\(stopped\)")
    c.enter("/save %s/a.json" % work)
    c.expect(r"\(4 messages")
    c.enter("/regen")
    c.expect(".{60}")
    c.type(CTRL_C)
    c.expect(r"\(stopped\)")
    c.enter("/help")
    used = int(c.expect(r", (\d+) of 30000 tokens used").group(1))
    assert used < 24000, used
    c.enter("/exit")
    assert c.end() == 0
    said = messages(work + "/a.json")
    assert [m["role"] for m in said] == ["user", "assistant"] * 2 and all(m["content"] for m in said), said


def test_commands(work):
    model = make_model(work, "m", "--model.eos_token_id", "256", "--model.max_position_embeddings", "2000")
    c = Chat(work, "--model", model, "--max-tokens", "8")
    c.enter("/help")
    for name in ("help", "system", "temp", "model", "trace", "save", "regen", "exit"):
        assert c.expect("/%s " % name)  # the list has no other order
        c.at = c.text.index("/help ")
    c.expect("Ctrl-C stops an answer")
    c.enter("/temp 0")
    c.enter("/system Be brief.")
    c.expect(r"\(system: Be brief\.\)")
    c.enter("hello")
    c.enter("/regen")
    c.enter("/trace")
    c.expect(r"layer 0 of 0 to 1: \d+ tokens")
    c.expect(r"\x1b\[38;5;\d+m")  # in colours
    c.expect(r"expert \d+ +[\d.]+ %")
    c.enter("/model")
    c.expect(r"\(model: [^ ]*/m, ")
    c.enter("/save %s/a.json" % work)
    c.expect(r"\(3 messages")
    c.enter("/temp x")
    c.expect('expected a number, found "x"')
    c.enter("/help")
    c.expect("Now: temperature 0,")
    c.enter("/exit")
    assert c.end() == 0
    assert [m["role"] for m in messages(work + "/a.json")] == ["system", "user", "assistant"]


failures = 0
for name, test in list(globals().items()):
    if not name.startswith("test_"):
        continue
    folder = tempfile.mkdtemp(prefix="moonlight-chat-")
    try:
        test(folder)
        print("ok  ", name, flush=True)
    except AssertionError as error:
        failures += 1
        print("FAIL", name, error, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
sys.exit(1 if failures else 0)
