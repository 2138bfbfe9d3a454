#!/usr/bin/env python3
"""Other people's tools at the server: promtool reads /metrics, wrk asks as fast as it can.
check_tools.py PROGRAM promtool|wrk         Status 77 (skipped) without the tool."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

from client import Server, chat, make_model, wait_until

WRK = """-- answers, streams, and what is cheap, in turns
local n = 0
local heads = { ["Content-Type"] = "application/json" }
request = function()
   n = n + 1
   if n % 4 == 0 then return wrk.format("GET", "/health") end
   if n % 8 == 1 then return wrk.format("GET", "/metrics") end
   local body = '{"prompt": "request ' .. n .. '", "max_tokens": 3, "seed": 1, "stream": ' .. tostring(n % 3 == 0) .. '}'
   return wrk.format("POST", "/v1/completions", heads, body)
end
"""


def check_promtool(program, work, tool):
    """A name that has to be escaped, and every counter at work."""
    server = Server(program, "--model", make_model(program, work + '/a "model" \\ of \u00e4'))
    try:
        for stage in range(2):
            text = server.get("/metrics").body
            done = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True)
            assert done.returncode == 0 and not done.stdout and not done.stderr, done
            names = set(re.findall(rb"^# TYPE (\S+)", text, re.M))
            assert len(names) > 15 and all(n.startswith(b"moonlight_") for n in names), names
            server.post("/v1/chat/completions", chat("hello " * 20, max_tokens=5))
            server.post("/v1/chat/completions", chat("hello " * 20, max_tokens=5, n=3))
            server.get("/nowhere")
        assert b'model="a \\"model\\" \\\\ of \xc3\xa4"' in text
        untyped = re.sub(rb"^# TYPE (\S+)_total counter", rb"# TYPE \1_total gauge", text, flags=re.M)
        assert subprocess.run([tool, "check", "metrics"], input=untyped, capture_output=True).returncode != 0
    finally:
        assert server.stop() == 0


def check_wrk(program, work, tool):
    with open(work + "/load.lua", "w") as file:
        file.write(WRK)
    server = Server(program, "--model", make_model(program, work + "/m"), "--queue", "64")
    try:
        done = subprocess.run([tool, "-t", "2", "-c", "32", "-d", "4s", "--timeout", "30s", "-s", work + "/load.lua",
                               "http://127.0.0.1:%d" % server.port], capture_output=True, text=True)
        assert done.returncode == 0, done
        print(done.stdout)
        asked = int(re.search(r"(\d+) requests in", done.stdout).group(1))
        assert asked > 32 and "Non-2xx" not in done.stdout and "Socket errors" not in done.stdout
        # wrk goes in the middle of its last requests.
        assert wait_until(lambda: server.metric("requests_running") == 0 and server.metric("requests_waiting") == 0)
        assert server.metric('http_replies_total{code="2xx"}') >= asked
        assert server.metric('http_replies_total{code="5xx"}') == 0
        one = server.post("/v1/completions", {"prompt": "after", "max_tokens": 3, "temperature": 0})
        assert one.status == 200
    finally:
        assert server.stop() == 0


def main():
    program, name = sys.argv[1:3]
    tool = shutil.which(name)
    if not tool:
        print("skipped: %s is missing (apt-get install %s)" % (name, {"promtool": "prometheus"}.get(name, name)))
        return 77
    with tempfile.TemporaryDirectory(prefix="moonlight-server-") as work:
        {"promtool": check_promtool, "wrk": check_wrk}[name](os.path.abspath(program), work, tool)
    return 0


if __name__ == "__main__":
    sys.exit(main())
