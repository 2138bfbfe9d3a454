#!/usr/bin/env python3
"""When the page first paints in headless Chromium, and how many bytes it is.

    /usr/bin/python3 bench_page.py PROGRAM MODEL [ROUNDS]

Each round is a browser of its own, so that nothing is in its cache.  Needs chromium, chromium-driver and python3-selenium."""
import json
import os
import statistics
import sys
import time

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "server"))
from client import Server  # noqa: E402

SCRIPT = """const paint = performance.getEntriesByName('first-contentful-paint')[0];
if (!paint || document.readyState !== 'complete') return null;
const files = [performance.getEntriesByType('navigation')[0]].concat(
    performance.getEntriesByType('resource').filter(e => !e.name.includes('/api/') && !e.name.includes('/v1/')));
return [paint.startTime, files.length, files.reduce((n, e) => n + e.decodedBodySize, 0)];"""


def load(url):
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    try:
        driver.get(url)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            found = driver.execute_script(SCRIPT)
            if found:
                return found
            time.sleep(0.05)
        raise SystemExit("nothing was painted")
    finally:
        driver.quit()


def main():
    program, model = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    server = Server(program, "--model", model)
    try:
        rows = [load("http://127.0.0.1:%d/" % server.port) for _ in range(rounds)]
        paints = sorted(r[0] for r in rows)
        print(json.dumps({"first_paint_ms": round(statistics.median(paints)), "worst_ms": round(paints[-1]),
                          "files": rows[0][1], "bytes": rows[0][2]}))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
