"""The page in headless Chromium: page.py URL URL_WITH_KEY PROGRAM WORK SHOTS.  What is shown is compared with what the API
says."""
import glob, json, os, re, shutil, subprocess, sys, time, unittest, urllib.error, urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

URL, LOCKED, PROGRAM, WORK, SHOTS = sys.argv[1:6]
URL, LOCKED = URL.rstrip("/"), LOCKED.rstrip("/")
PATIENCE = 60  # seconds, for a machine that is busy; nothing here is about speed


def api(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": WORK + "/downloads"})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        cls.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
        cls.driver.set_window_size(1400, 900)

    @classmethod
    def tearDownClass(cls):
        cls.driver.quit()

    def tearDown(self):
        # The policy was never broken, no script failed, nothing was asked of another server.
        for line in self.driver.get_log("browser"):
            if " 401 " not in line["message"]:  # what a browser says when a key is asked for
                self.assertNotIn(line["level"], ("SEVERE", "WARNING"), line["message"])
        names = self.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        self.assertEqual([n for n in names if not n.startswith((URL + "/", LOCKED + "/"))], [])

    # ---- words ----

    def open(self, view):
        self.driver.get("about:blank")
        self.driver.get(URL + "/#" + view)
        self.wait(lambda: self.find("main > *"))

    def find(self, css):
        found = self.all(css)
        return found[0] if found else None

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def wait(self, condition, what=""):
        def ready(_):
            try:
                return condition()
            except Exception as error:
                if type(error).__name__ in ("StaleElementReferenceException", "ElementNotInteractableException",
                                            "ElementClickInterceptedException", "NoSuchElementException", "JavascriptException",
                                            "AttributeError", "IndexError"):  # not there yet
                    return False
                raise
        return WebDriverWait(self.driver, PATIENCE, 0.05).until(ready, what)

    def shot(self, name):
        self.driver.save_screenshot(f"{SHOTS}/{name}.png")

    def button(self, text, within=""):
        for b in self.all(within + " button"):
            if b.text == text and b.is_displayed():
                return b
        return None

    def press(self, text, within=""):
        self.wait(lambda: self.button(text, within), text)
        self.wait(lambda: self.button(text, within).click() or True, text)

    def set(self, name, value):
        control = self.find(f".settings [name={name}]")
        if control.get_attribute("type") == "checkbox":
            if control.is_selected() != value:
                control.click()
            return
        control.clear()
        control.send_keys(str(value), Keys.TAB)

    def choose(self, css, value):
        self.wait(lambda: Select(self.find(css)).select_by_value(value) or True, css)

    def idle(self):
        return (self.find(".composer button.primary").is_displayed() and not self.find(".live") and
                len(self.all(".message.assistant")) > self.answers)

    def ask(self, text):
        """Send it; `idle` is then false until the answer is there."""
        self.answers = len(self.all(".message.assistant:not(.live)"))
        self.find(".composer textarea").send_keys(text, Keys.ENTER)

    def conversation(self):
        self.wait(lambda: "#chat/" in self.driver.current_url)
        return api("GET", "/api/conversations/" + self.driver.current_url.split("#chat/")[1])

    def start(self, **settings):
        """A new conversation with these settings, the model loaded."""
        self.open("chat")
        self.wait(lambda: self.find(".settings select[name=model]").get_attribute("value"))
        for name, value in {"temperature": 0.7, "max_tokens": 24, "seed": 7, **settings}.items():
            self.set(name, value)
        if self.find(".settings select[name=second]").get_attribute("value"):
            self.choose(".settings select[name=second]", "")

    # ---- the page ----

    def test_files(self):
        with urllib.request.urlopen(URL + "/") as page:
            policy = page.headers["Content-Security-Policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual(page.headers["X-Content-Type-Options"], "nosniff")
        with self.assertRaises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(URL + "/nothing.js")
        self.assertEqual(missing.exception.code, 404)
        self.open("chat")
        sizes = self.driver.execute_script("return performance.getEntriesByType('resource').map(e => [e.name, e.decodedBodySize])")
        files = [s for n, s in sizes if "/api/" not in n]
        self.assertGreater(len(files), 8)
        self.assertLess(sum(files), 500000)
        self.wait(lambda: self.driver.execute_script("return performance.getEntriesByName('first-contentful-paint').length"))
        paint = self.driver.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"first paint after {paint:.0f} ms, {sum(files)} bytes")

    # ---- chat ----

    def test_an_answer_is_the_models(self):
        self.start()
        self.ask("Once upon a time")
        self.wait(self.idle)
        self.wait(lambda: self.find(".message.assistant .figures").text)
        self.shot("chat")
        c = self.conversation()
        question, answer = c["messages"]
        self.assertEqual((question["role"], question["content"]), ("user", "Once upon a time"))
        self.assertEqual((answer["role"], answer["parent"], c["head"]), ("assistant", question["id"], answer["id"]))
        alone = api("POST", "/v1/chat/completions", {"model": answer["model"], "messages": [{"role": "user", "content": "Once upon a time"}],
                    "temperature": 0.7, "top_p": 0.95, "max_tokens": 24, "seed": 7})
        self.assertEqual(answer["content"], alone["choices"][0]["message"]["content"])
        self.assertEqual(answer["meta"]["tokens"], alone["usage"]["completion_tokens"])
        shown = self.find(".message.assistant .text").text
        words = lambda text: re.findall(r"\w+", text)
        self.assertEqual(words(shown), words(answer["content"]))
        self.assertIn("tokens/s", self.find(".message.assistant .figures").text)

        # The same with the cache off is the same, and says so.
        self.press("Check cache")
        badge = self.wait(lambda: self.find(".badge.good, .badge.bad"))
        self.assertIn("= equal with cache off", badge.text)

        # Once more: an alternative; back to the first; a reload keeps all of it.
        self.set("seed", 8)
        self.answers = 0
        self.press("Again")
        self.wait(lambda: self.idle() and "2 of 2" in self.find(".message.assistant header").text)
        self.shot("chat-again")
        self.find(".message.assistant button[aria-label='Alternative before']").click()
        self.wait(lambda: "1 of 2" in self.find(".message.assistant header").text)
        self.wait(lambda: api("GET", f"/api/conversations/{c['id']}")["head"] == answer["id"])
        self.driver.refresh()
        self.wait(lambda: "1 of 2" in self.find(".message.assistant header").text)

        # An edited question is a branch beside the first.
        self.press("Edit")
        box = self.wait(lambda: self.find(".message.user textarea"))
        box.clear()
        box.send_keys("There was")
        self.press("Send as a branch")
        self.wait(lambda: self.idle() and "2 of 2" in self.find(".message.user header").text)
        roots = [m for m in self.conversation()["messages"] if m["parent"] is None]
        self.assertEqual([m["content"] for m in roots], ["Once upon a time", "There was"])

        # Out of the page.
        self.press("Save as JSON")
        saved = self.wait(lambda: glob.glob(WORK + "/downloads/*.json"))
        self.wait(lambda: os.path.getsize(saved[0]) > 0)
        self.assertEqual([m["id"] for m in load(saved[0])["messages"]], [m["id"] for m in self.conversation()["messages"]])

    def test_stop_and_the_cache_switch(self):
        self.start(kv_cache=False, max_tokens=3500, temperature=1, seed="")
        for _ in range(8):  # a model so small may end an answer by itself
            self.ask("Once upon a time")
            self.wait(lambda: self.idle() or len(self.find(".live .text").text) > 20)
            if not self.idle():
                self.shot("chat-streaming")
                if self.find(".composer .stop").is_displayed():
                    self.find(".composer textarea").send_keys(Keys.ESCAPE)
                self.wait(self.idle)
            last = self.conversation()["messages"][-1]
            if last["meta"]["finish"] == "stopped":
                break
        self.assertEqual(last["meta"]["finish"], "stopped")
        self.assertGreater(len(last["content"]), 20)
        self.assertEqual(last["meta"]["kv_cache"], False)
        footer = self.all(".message.assistant footer")[-1].text
        self.assertIn("KV cache off", footer)
        self.assertIn("stopped", footer)
        self.set("kv_cache", True)

    def test_two_checkpoints_side_by_side(self):
        other = "two/step_000100"
        self.start(system="Be brief.")
        self.choose(".settings select[name=second]", other)
        self.ask("The dog")
        self.wait(lambda: self.idle() and len(self.all(".beside .message")) == 2)
        self.shot("chat-beside")
        names = [n.text for n in self.all(".beside .who")]
        self.assertEqual(names[1], other)
        self.assertNotEqual(names[0], other)
        messages = self.conversation()["messages"]
        self.assertEqual({m["model"] for m in messages[1:]}, set(names))
        for m in messages[1:]:
            alone = api("POST", "/v1/chat/completions", {"model": m["model"], "temperature": 0.7, "top_p": 0.95, "max_tokens": 24, "seed": 7,
                        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The dog"}]})
            self.assertEqual(m["content"], alone["choices"][0]["message"]["content"])
        self.press("Go on with this")
        self.wait(lambda: self.conversation()["head"] == [m["id"] for m in messages if m["model"] == other][0])
        self.choose(".settings select[name=second]", "")
        self.set("system", "")

    def test_text_stays_text(self):
        bad = ('<img src=x onerror="document.title=1"> <script>document.title=2</script> **<b>b</b>** [a](javascript:alert(1)) '
               '[b](https://example.org/?x=1&y="2") ![c](https://example.org/c.png)\n\n```html\n<iframe src="/"></iframe>\n```\n\n<style>*{display:none}</style>')
        c = api("POST", "/api/conversations", {"title": "<u>title</u>"})
        q = api("POST", f"/api/conversations/{c['id']}/messages", {"parent": None, "role": "user", "content": bad})
        api("POST", f"/api/conversations/{c['id']}/messages", {"parent": q["id"], "role": "assistant", "content": bad, "model": "<i>m</i>"})
        self.open("chat/" + c["id"])
        self.wait(lambda: self.find(".message.assistant .text"))
        self.shot("chat-hostile")
        self.assertEqual(len(self.all("main :is(img, script, style, iframe, b, i, u)")), 0)
        self.assertEqual([a.get_attribute("href") for a in self.all(".message a")],
                         ["https://example.org/?x=1&y=%222%22", "https://example.org/c.png"])
        text = self.find(".message.assistant .text").text
        for part in ('<img src=x onerror="document.title=1">', "<script>document.title=2</script>", "<b>b</b>", '<iframe src="/"></iframe>', "<style>*{display:none}</style>"):
            self.assertIn(part, text)
        self.assertEqual(self.find(".message.user .text").text, bad)
        self.assertIn("Moonlight", self.driver.title)

    def test_benchmark(self):
        self.start()
        self.press("Measure the KV cache …")
        self.press("Measure", "dialog")
        self.wait(lambda: self.find("dialog .badge"))
        self.shot("bench")
        self.assertIn("outputs are equal", self.find("dialog .badge").text)
        rows = [[float(re.sub(r"[^\d.]", "", c.text.replace(" k", "000"))) for c in r.find_elements(By.CSS_SELECTOR, "td")[:2]] for r in self.all("dialog tbody tr")]
        self.assertEqual(len(rows), 2)
        self.assertTrue(all(v > 0 for row in rows for v in row))
        self.assertEqual(len(self.all("dialog rect title")), 2)

    # ---- experts ----

    def test_experts(self):
        self.open("experts")
        self.wait(lambda: Select(self.find("select[name=first]")).options)
        first = self.find("select[name=first]").get_attribute("value")
        self.choose("select[name=second]", "two/step_000100")
        self.press("Show experts")
        self.wait(lambda: len(self.all(".tokens")) == 2)
        self.shot("experts")
        model = next(m for m in api("GET", "/api/models")["models"] if m["id"] == first)
        body = {"model": first, "max_tokens": 40, "temperature": 0, "seed": 1}
        body.update({"prompt": "Once upon a time"} if model["chat_format"] == "none" else {"messages": [{"role": "user", "content": "Once upon a time"}]})
        trace = api("POST", "/api/trace", body)
        for layer in range(len(trace["layers"])):
            if layer:
                self.find(".layer input").send_keys(Keys.ARROW_RIGHT)
            self.wait(lambda: self.find(".layer output").text == str(trace["layers"][layer]))
            tokens = self.all(".tokens")[0].find_elements(By.CSS_SELECTOR, ".token")
            self.assertEqual(len(tokens), len(trace["tokens"]))
            for at in (1, len(tokens) - 2):
                self.driver.execute_script("arguments[0].focus()", tokens[at])
                wanted = trace["tokens"][at]["layers"][layer]
                panel = self.all(".explanation")[0]
                rows = [r.find_elements(By.CSS_SELECTOR, "td") for r in panel.find_elements(By.CSS_SELECTOR, "tbody tr")]
                self.assertEqual([int(r[0].text) for r in rows], wanted["experts"])
                for row, weight in zip(rows, wanted["weights"]):
                    self.assertAlmostEqual(float(row[1].text), weight, delta=1e-3 + 0.006 * weight)
                self.assertIn("margin", panel.text)
            bars = self.all("section.cards")[0].find_elements(By.CSS_SELECTOR, "figure")[0].find_elements(By.CSS_SELECTOR, "rect title")
            shares = [float(b.get_attribute("textContent").split(": ")[1]) for b in bars]
            total = sum(trace["usage"][layer])
            for share, count in zip(shares, trace["usage"][layer]):
                self.assertAlmostEqual(share, 100 * count / total, delta=0.05)
            self.assertEqual(len(shares), trace["n_expert"])
        # Arrow keys go from token to token.
        tokens[0].click()
        tokens[0].send_keys(Keys.ARROW_RIGHT)
        self.assertEqual(self.driver.switch_to.active_element.get_attribute("data-index"), "1")
        self.assertIn("Compared", self.find("main").text)
        self.assertEqual(len(self.all("section.cards")), 2)

    def test_experts_of_an_answer(self):
        self.start(max_tokens=12)
        self.ask("Once upon a time")
        self.wait(self.idle)
        answer = self.conversation()["messages"][-1]
        self.press("Experts", ".message.assistant")
        self.wait(lambda: self.find(".tokens"))
        n = len([t for t in self.all(".token") if "prompt" not in t.get_attribute("class").split()])
        self.assertEqual(n, answer["meta"]["tokens"])

    # ---- runs ----

    def test_runs(self):
        self.open("runs")
        self.wait(lambda: len(self.all("tr[data-run]")) == 2)
        for box in ("one", "two"):
            control = self.find(f"tr[data-run={box}] input[type=checkbox]")
            if not control.is_selected():
                control.click()
                self.wait(lambda: self.find(f"tr[data-run={box}] input[type=checkbox]").is_selected())
        chart = lambda name: self.find(f"svg[aria-label='{name}']")
        self.wait(lambda: chart("Training loss") and len(chart("Training loss").find_elements(By.CSS_SELECTOR, "path.line")) == 2)
        self.shot("runs")
        for name in ("Validation loss", "Learning rate", "Gradient norm", "Size of updates (RMS)", "Throughput", "Memory",
                     "Load per layer: one", "Load per layer: two"):
            self.assertTrue(chart(name), name)
        points = lambda name: [len(re.findall("[ML]", p.get_attribute("d"))) for p in chart(name).find_elements(By.CSS_SELECTOR, "path.line")]
        self.assertEqual(points("Learning rate"), [100, 100])
        self.assertEqual(points("Validation loss"), [5, 5])
        log = lines(WORK + "/runs/one/log.jsonl")
        row = self.find("tr[data-run=one]").text
        self.assertIn("best step", self.find(".runs thead").text)
        self.assertIn(str(max(r["step"] for r in log)), row)
        samples = lines(WORK + "/runs/one/samples.jsonl")
        self.wait(lambda: len(self.all(".sample")) == 2 * len(samples))
        self.assertIn(samples[0]["prompt"], self.find(".sample").text)
        # What is measured from now on comes by itself.
        step = dict([r for r in log if "val_loss" not in r][-1])
        with open(WORK + "/runs/one/log.jsonl", "a") as out:
            for k in range(1, 4):
                out.write(json.dumps({**step, "step": 100 + k}) + "\n")
                out.flush()
        self.wait(lambda: points("Learning rate") == [103, 100], "the new steps")
        # A note is kept.
        note = self.find("tr[data-run=two] input:not([type])")
        note.send_keys("the other one", Keys.TAB)
        self.wait(lambda: next(r for r in api("GET", "/api/runs")["runs"] if r["id"] == "two")["note"] == "the other one")

        # Rollouts, newest first, as text.
        rows = [[c.text for c in r.find_elements(By.CSS_SELECTOR, "td")] for r in self.all(".tall tbody tr")]
        self.assertEqual(rows, [["2", "2 + 3 =", "6", "0"], ["1", "2 + 2 =", "<b>4</b>", "1"]])

    def test_a_run_in_training(self):
        run = subprocess.Popen([PROGRAM, "pretrain", WORK + "/tiny.ini", "--run", WORK + "/runs/live", "--train.steps", "1000000",
                                "--checkpoint.every", "0"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.wait(lambda: any(r["id"] == "live" and r["active"] and r["step"] for r in api("GET", "/api/runs")["runs"]))
            self.open("runs/live")
            self.wait(lambda: "training" in self.find("tr[data-run=live]").text)
            self.wait(lambda: self.find("tr[data-run=live] input[type=checkbox]").is_selected())
            self.wait(lambda: self.find("svg[aria-label='Learning rate'] path.line"))
            last = lambda: max(int(s["step"]) for s in self.driver.execute_async_script(
                "const done = arguments[0]; fetch('/api/runs').then(r => r.json()).then(j => done(j.runs))") if s["id"] == "live")
            shown = lambda: max(float(t.text.replace("k", "000")) for t in self.all("svg[aria-label='Learning rate'] text.mid")
                                if re.fullmatch(r"[\d.]+k?", t.text))
            goal = 2 * last() + 200
            self.wait(lambda: shown() >= goal / 2, "the curve grows")
            self.shot("runs-live")
        finally:
            run.terminate()
            run.wait(PATIENCE)
            shutil.rmtree(WORK + "/runs/live")

    # ---- everywhere ----

    def test_a_key_is_asked_for(self):
        self.driver.get(LOCKED + "/#chat")
        box = self.wait(lambda: self.find("dialog input[name=key]"))
        self.shot("key")
        box.send_keys("no such key", Keys.ENTER)
        self.wait(lambda: self.find("dialog input[name=key]") and self.find("dialog input[name=key]").get_attribute("value") == "")
        self.find("dialog input[name=key]").send_keys("the secret", Keys.ENTER)
        self.wait(lambda: self.find(".settings select[name=model]").get_attribute("value") == "two")
        self.wait(lambda: not self.find("dialog"))
        self.set("max_tokens", 8)
        self.ask("Once")
        self.wait(self.idle)

    def test_every_control_has_a_name(self):
        self.start(max_tokens=8)
        self.ask("The cat")
        self.wait(self.idle)
        for view in ("chat", "experts", "runs"):
            if view != "chat":
                self.open(view)
                self.wait(lambda: self.find("main input"))
            for control in self.all("button, input, select, textarea, a"):
                if control.is_displayed():
                    self.assertTrue(control.accessible_name.strip(), control.get_attribute("outerHTML"))

    def test_narrow_and_dark(self):
        self.driver.set_window_size(500, 900)
        try:
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
            for view in ("chat", "experts", "runs"):
                self.open(view)
                time.sleep(0.5)
                width = self.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
                self.assertLessEqual(width[0], 360, view)
                self.shot("phone-" + view)
            self.find("#theme").click()
            ground = self.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            self.assertLess(sum(map(int, re.findall(r"\d+", ground)[:3])), 150)
            self.shot("phone-dark")
            self.find("#theme").click()
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            self.driver.set_window_size(1400, 900)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=2)
