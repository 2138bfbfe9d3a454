#!/usr/bin/env python3
"""The store: old versions, runs whose files grow or are written anew, rollouts, kill -9.   check_store.py PROGRAM [TEST...]"""
import json
import os
import random
import sqlite3
import sys
import threading
import time

from client import Server, run


def write_log(path, steps, mode="w", every=10, shift=0.0):
    with open(path, mode) as file:
        for step in steps:
            file.write(json.dumps({"step": step, "tokens": 100 * step, "loss": 5 - 0.001 * step + shift, "lr": 0.1}) + "\n")
            if step % every == 0:
                file.write(json.dumps({"step": step, "val_loss": 4.5 - 0.001 * step + shift}) + "\n")


def read_log(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def make_runs(work, *names, n=50):
    for name in names:
        os.makedirs("%s/runs/%s" % (work, name))
        write_log("%s/runs/%s/log.jsonl" % (work, name), range(1, n + 1))
    return work + "/runs"


def metrics(server, name, arguments=""):
    reply = server.get("/api/runs/%s/metrics%s" % (name, arguments))
    assert reply.status == 200, reply.body
    return reply.json()["lines"]


def settle(folder):
    """As if nothing had been changed there for a while."""
    for path in (folder + "/log.jsonl", folder):
        os.utime(path, (time.time() - 100, time.time() - 100))


VERSION_1 = """
CREATE TABLE conversation(id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL, created REAL NOT NULL,
 updated REAL NOT NULL, settings TEXT NOT NULL, head INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX conversation_owner ON conversation(owner, updated);
CREATE TABLE message(id INTEGER PRIMARY KEY AUTOINCREMENT,
 conversation TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE, parent INTEGER NOT NULL,
 role TEXT NOT NULL, content TEXT NOT NULL, created REAL NOT NULL, model TEXT NOT NULL, meta TEXT NOT NULL) STRICT;
CREATE INDEX message_conversation ON message(conversation, id);
INSERT INTO conversation VALUES('c-1', '', 'old', 1, 2, '{"a": 1}', 1);
INSERT INTO message VALUES(1, 'c-1', 0, 'user', 'from long ago', 1, '', '{}');
PRAGMA user_version = 1;
"""
VERSION_2 = VERSION_1 + """
CREATE TABLE run(id TEXT PRIMARY KEY, note TEXT NOT NULL) STRICT;
INSERT INTO run VALUES('r', 'an old note');
PRAGMA user_version = 2;
"""


def test_old_stores_are_brought_up_to_date(program, work):
    runs = make_runs(work, "r")
    for name, script, note in (("one", VERSION_1, ""), ("two", VERSION_2, "an old note")):
        db = sqlite3.connect(work + "/" + name)
        db.executescript(script)
        db.close()
        for _ in range(2):  # the second time it is a present one
            server = Server(program, "--runs", runs, store=work + "/" + name)
            try:
                c = server.get("/api/conversations/c-1").json()
                assert (c["title"], c["settings"], c["head"]) == ("old", {"a": 1}, 1)
                assert [m["content"] for m in c["messages"]] == ["from long ago"]
                assert server.get("/api/runs").json()["runs"][0]["note"] == note
                assert metrics(server, "r") == read_log(runs + "/r/log.jsonl")
            finally:
                assert server.stop() == 0
        db = sqlite3.connect(work + "/" + name)
        assert db.execute("PRAGMA user_version").fetchone()[0] == 3
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        db.close()


def test_a_log_is_followed(program, work):
    runs = make_runs(work, "r", n=5000)
    log = runs + "/r/log.jsonl"
    server = Server(program, "--runs", runs, store=work + "/store")
    try:
        assert metrics(server, "r") == read_log(log)
        few = metrics(server, "r", "?points=100")
        steps = [l["step"] for l in few if "loss" in l]
        assert 100 <= len(steps) <= 101 and steps[-1] == 5000, len(steps)
        gaps = {b - a for a, b in zip(steps, steps[1:])}
        assert gaps <= {49, 50, 51}, gaps
        assert len([l for l in few if "val_loss" in l]) == 500
        assert all(l in read_log(log) for l in few[:20])
        with open(log, "a") as file:  # a line comes in two parts
            file.write('{"step": 5001, "lo')
        assert metrics(server, "r", "?after=4999")[-1]["step"] == 5000
        with open(log, "a") as file:
            file.write('ss": 1}\n')
        assert metrics(server, "r", "?after=5000") == [{"step": 5001, "loss": 1}]
        write_log(log, range(5002, 5100), "a")
        assert metrics(server, "r") == read_log(log)
        # Written anew by a resumed run: another file, or the same with other bytes; shorter or longer.
        write_log(log + ".new", range(1, 4000), shift=1)
        os.replace(log + ".new", log)
        assert metrics(server, "r") == read_log(log)
        write_log(log, range(1, 6000), shift=2)
        assert metrics(server, "r") == read_log(log)
        write_log(log, range(1, 100), shift=3)
        assert metrics(server, "r") == read_log(log)
        with open(log, "w"):
            pass
        assert metrics(server, "r") == []
        with open(log, "w") as file:
            file.write('no JSON\n[1]\n{"step": 7, "loss": 2}\n\n{"step": 8, "loss": 1}\n')
        assert [l["step"] for l in metrics(server, "r")] == [7, 8]
        stream = server.events("/api/runs/r/metrics/stream?after=7", None, method="GET")
        assert next(stream) == {"step": 8, "loss": 1}
        write_log(log, range(9, 12), "a")
        assert [next(stream)["step"] for _ in range(4)] == [9, 10, 10, 11]
        stream.close()
    finally:
        assert server.stop() == 0


def test_runs_that_did_not_change_are_not_read_again(program, work):
    names = ["run%03d" % i for i in range(300)]
    runs = make_runs(work, *names, n=30)
    for name in names:
        settle(runs + "/" + name)
    server = Server(program, "--runs", runs, store=work + "/store")
    try:
        first = server.get("/api/runs").json()["runs"]
        assert [r["id"] for r in first] == names
        assert all(r["step"] == 30 and abs(r["loss"] - 4.97) < 1e-9 and abs(r["val_loss"] - 4.47) < 1e-9 for r in first)
    finally:
        assert server.stop() == 0
    # The same size, inode and times, other bytes: who sees them has read them.
    log = runs + "/run007/log.jsonl"
    about = os.stat(log)
    with open(log, "r+") as file:
        text = file.read()
        file.seek(0)
        file.write(text.replace('"step": 30', '"step": 99'))
    os.utime(log, ns=(about.st_atime_ns, about.st_mtime_ns))
    server = Server(program, "--runs", runs, store=work + "/store")
    try:
        assert server.get("/api/runs").json()["runs"] == first
        os.utime(log)  # changed just now: read each time, until it has settled
        assert server.get("/api/runs").json()["runs"][7]["step"] == 99
        server.request("PATCH", "/api/runs/run007", {"note": "odd"})
        settle(runs + "/run007")
        for _ in range(2):
            found = server.get("/api/runs").json()["runs"]
            assert found[7]["step"] == 99 and found[7]["note"] == "odd"
            assert found[:7] + found[8:] == first[:7] + first[8:]
    finally:
        assert server.stop() == 0


def test_rollouts_are_kept_and_found(program, work):
    runs = make_runs(work, "r", "empty")
    os.makedirs(runs + "/r/rollouts")
    records = [{"line": i, "prompt": "What is %d + 1?" % i, "text": "It is %d." % (i + i % 3), "answer": str(i + i % 3),
                "right": i % 3 == 1, "completion_tokens": 5} for i in range(200)]
    with open(runs + "/r/rollouts/math.jsonl", "w") as file:
        file.writelines(json.dumps(r) + "\n" for r in records)
    with open(runs + "/r/rollouts.jsonl", "w") as file:
        file.writelines(json.dumps(r) + "\n" for r in (
            {"step": 1, "prompt": "<b>a</b>", "response": "x", "reward": -0.5, "group": [1, 2]}, {"step": 2, "question": "b", "text": "y"}))
    open(runs + "/r/rollouts/notes.txt", "w").close()
    server = Server(program, "--runs", runs, store=work + "/store")

    def ask(arguments="", name="r", status=200):
        reply = server.get("/api/runs/%s/rollouts%s" % (name, arguments))
        assert reply.status == status, reply.body
        return reply.json()
    try:
        assert ask(name="empty") == {"files": [], "rollouts": [], "total": 0}
        found = ask()
        assert found["total"] == 202 and len(found["rollouts"]) == 50
        assert [(f["file"], f["n"]) for f in found["files"]] == [("rollouts.jsonl", 2), ("rollouts/math.jsonl", 200)]
        assert found["files"][0]["mean_reward"] == -0.5
        assert abs(found["files"][1]["mean_reward"] - sum(r["right"] for r in records) / 200) < 1e-9
        top = found["rollouts"][0]
        assert (top["step"], top["prompt"], top["text"], top["reward"]) == (2, "b", "y", None)
        whole = ask("?file=rollouts/math.jsonl&order=oldest&limit=1000")["rollouts"]
        assert [r["record"] for r in whole] == records and [r["line"] for r in whole] == list(range(200))
        assert all(r["reward"] == float(r["record"]["right"]) and r["text"] == r["record"]["text"] for r in whole)
        pages = [r for at in range(0, 202, 40) for r in ask("?order=best&limit=40&offset=%d" % at)["rollouts"]]
        rewards = [r["reward"] for r in pages if r["reward"] is not None]
        assert len(pages) == 202 and rewards == sorted(rewards, reverse=True)
        assert len({(r["file"], r["line"]) for r in pages}) == 202
        some = ask("?search=it%20is%2011.&limit=9")
        assert some["total"] == len([r for r in records if "It is 11." in r["text"]]) == len(some["rollouts"]) > 0
        assert ask("?after=1")["total"] == 1
        for bad in ("?order=x", "?limit=1001", "?limit=-1", "?offset=x"):
            ask(bad, status=400)
        with open(runs + "/r/rollouts/math.jsonl", "a") as file:
            file.write(json.dumps({"prompt": "p", "text": "t", "right": True}) + "\n")
        assert ask()["total"] == 203
        odd = {"prompt": "zero\0", "text": "a\0b\0", "right": False}  # what models write holds U+0000 now and then
        with open(runs + "/r/rollouts/math.jsonl", "a") as file:
            file.write(json.dumps(odd) + "\n")
        found = ask("?search=zero")["rollouts"][0]
        assert (found["prompt"], found["text"], found["record"]) == ("zero\ufffd", "a\ufffdb\ufffd", odd)
        samples = [{"step": 1, "prompt": "p", "text": "\0x"}, {"step": 2, "prompt": "p", "text": "y"}]
        with open(runs + "/r/samples.jsonl", "w") as file:
            file.writelines(json.dumps(s) + "\n" for s in samples)
        assert server.get("/api/runs/r/samples").json()["samples"] == samples
        os.remove(runs + "/r/rollouts.jsonl")
        found = ask()
        assert found["total"] == 202 and [f["file"] for f in found["files"]] == ["rollouts/math.jsonl"]
        os.rename(runs + "/r/rollouts", work + "/elsewhere")
        assert ask() == {"files": [], "rollouts": [], "total": 0}
    finally:
        assert server.stop() == 0


def check_whole(path):
    """Every row belongs somewhere, and the file is sound."""
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert db.execute("SELECT count(*) FROM message m WHERE parent != 0 AND NOT EXISTS (SELECT 1 FROM message p WHERE"
                      " p.id = m.parent AND p.conversation = m.conversation)").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM conversation c WHERE head != 0 AND NOT EXISTS (SELECT 1 FROM message m WHERE"
                      " m.id = c.head AND m.conversation = c.id)").fetchone() == (0,)
    # The index never knows of more or fewer lines than it says.
    for n_line, n in db.execute("SELECT n_line, (SELECT count(*) FROM metric WHERE file = key) + (SELECT count(*) FROM rollout"
                                " WHERE file = key) FROM run_file"):
        assert n_line == n, (n_line, n)
    db.close()


def test_kill_9_in_the_middle_of_writing(program, work):
    runs = make_runs(work, "r", n=1)
    log, rollouts = runs + "/r/log.jsonl", runs + "/r/rollouts.jsonl"
    answered, last_step, random_ = {}, 1, random.Random(1)
    for round_ in range(10):
        server = Server(program, "--runs", runs, store=work + "/store")
        stop = threading.Event()

        def talk(name):
            while not stop.is_set():
                try:
                    c = server.post("/api/conversations", {"title": name}, timeout=5).json()["id"]
                    answered[c] = []
                    parent = None
                    for i in range(6):
                        text = "%s %d %s" % (c, i, "z" * random_.randrange(5000))
                        r = server.post("/api/conversations/%s/messages" % c,
                                        {"parent": parent, "role": "user", "content": text, "meta": {"n": i}}, timeout=5)
                        if r.status != 201:
                            return
                        parent = r.json()["id"]
                        answered[c].append((parent, text))
                except Exception:  # http.client's, of a connection that was cut
                    return

        def look():
            while not stop.is_set():
                try:
                    server.get("/api/runs/r/metrics?points=5", timeout=5)
                    server.get("/api/runs/r/rollouts?limit=1", timeout=5)
                    server.request("PATCH", "/api/runs/r", {"note": "n%d" % round_}, timeout=5)
                except Exception:
                    return

        threads = [threading.Thread(target=talk, args=("t%d" % i,)) for i in range(3)] + [threading.Thread(target=look)]
        for t in threads:
            t.start()
        end = time.monotonic() + 0.15 + 0.3 * random_.random()
        while time.monotonic() < end:
            write_log(log, range(last_step + 1, last_step + 200), "a")
            last_step += 199
            with open(rollouts, "a") as file:
                file.writelines(json.dumps({"step": i, "prompt": "p", "text": "x" * 50, "reward": i % 2}) + "\n" for i in range(100))
            time.sleep(0.05)
        server.kill()
        stop.set()
        for t in threads:
            t.join()
        server = Server(program, "--runs", runs, store=work + "/store")
        try:
            listed = {c["id"] for c in server.get("/api/conversations").json()["conversations"]}
            for c, messages in answered.items():
                assert c in listed, c
                found = {m["id"]: m["content"] for m in server.get("/api/conversations/" + c).json()["messages"]}
                assert len(found) - len(messages) in (0, 1), (len(found), len(messages))
                for id_, text in messages:
                    assert found[id_] == text
            answered = {c: m for c, m in list(answered.items())[-20:]}
            assert metrics(server, "r") == read_log(log)
            with open(rollouts) as file:
                assert server.get("/api/runs/r/rollouts").json()["total"] == sum(1 for _ in file)
        finally:
            assert server.stop() == 0
        check_whole(work + "/store")
    assert sum(map(len, answered.values())) > 0, "nothing was written: the test tries nothing"


if __name__ == "__main__":
    run(sys.modules[__name__])
