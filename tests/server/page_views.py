"""The page's Experts and Runs, and what holds everywhere (see page.py)."""
import json, os, re, shutil, socket, subprocess, time

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from browser import LOCKED, PATIENCE, PROGRAM, SHOTS, URL, WORK, Page, api, lines


# What is poorly readable: [text, contrast, class].
CONTRAST = """
const parse = (c) => { const n = c.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
const luminance = (c) => [0.2126, 0.7152, 0.0722].reduce((s, w, i) => {
  const v = c[i] / 255; return s + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const ground = (node) => {
  const layers = [];
  for (let n = node; n; n = n.parentElement) layers.push(parse(getComputedStyle(n).backgroundColor));
  return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
};
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement, text = walker.currentNode.data.trim(), style = getComputedStyle(node);
  if (!text || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || node.closest(".hidden, .skip, :disabled, noscript, option")) continue;
  const isSvg = node instanceof SVGElement, back = ground(node), front = over(parse(isSvg ? style.fill : style.color), back);
  const [a, b] = [luminance(front), luminance(back)].sort((x, y) => y - x), size = parseFloat(style.fontSize);
  const contrast = (a + 0.05) / (b + 0.05), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (contrast < (large ? 3 : 4.5)) poor.push([text.slice(0, 30), Number(contrast.toFixed(2)), node.className.baseVal ?? node.className]);
}
return poor;
"""


class Views(Page):
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
            self.wait(lambda: self.find(".layer output").text == f"{trace['layers'][layer]} of {trace['layers'][-1]}")
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
        # One expert stands out: the tokens that chose it.
        layer = len(trace["layers"]) - 1
        wanted = trace["tokens"][3]["layers"][layer]["experts"][0]
        self.choose("select[name=only]", str(wanted))
        chose = [bool(t["layers"]) and wanted in t["layers"][layer]["experts"] for t in trace["tokens"]]
        self.wait(lambda: ["other" not in t.get_attribute("class").split() for t in self.all(".tokens")[0].find_elements(By.CSS_SELECTOR, ".token")] == chose)
        self.assertIn(False, chose)
        self.shot("experts-one")
        self.choose("select[name=only]", "")

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
        # The first of few values is seen, and a run that is shorter than another.
        circles = chart("Validation loss").find_elements(By.CSS_SELECTOR, "circle")
        frame = chart("Validation loss").find_element(By.CSS_SELECTOR, "path.axis").rect
        self.assertEqual(len(circles), 10)
        for c in circles:
            self.assertGreaterEqual(c.rect["y"] + 4, frame["y"])
            self.assertLessEqual(c.rect["y"], frame["y"] + frame["height"] + 2)
        # Values are read with the keys.
        figure = self.find("figure[aria-label^='Validation loss']")
        self.driver.execute_script("arguments[0].focus()", figure)
        figure.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
        evaluations = [l for l in log if "val_loss" in l]
        self.wait(lambda: f"step {evaluations[1]['step']}" in figure.find_element(By.CSS_SELECTOR, ".readout").text)
        said = self.find("#status").get_attribute("textContent")
        self.assertAlmostEqual(float(re.search(r"one ([\d.]+)", said).group(1)), evaluations[1]["val_loss"], delta=6e-4)
        figure.send_keys(Keys.ESCAPE)
        # Over tokens.
        self.choose("select[name=axis]", "tokens")
        last = max(r.get("tokens", 0) for r in log)
        self.wait(lambda: [t for t in chart("Training loss").find_elements(By.CSS_SELECTOR, "text.mid") if t.text == "tokens"])
        figure = self.find("figure[aria-label^='Learning rate']")
        figure.send_keys(Keys.END)
        self.wait(lambda: f"tokens {last / 1e3:.1f} k" in figure.find_element(By.CSS_SELECTOR, ".readout").text)
        figure.send_keys(Keys.ESCAPE)
        self.choose("select[name=axis]", "step")
        # Samples: one card for a run and a prompt, a slider over the steps.
        samples = lines(WORK + "/runs/one/samples.jsonl")
        self.wait(lambda: len(self.all(".sample")) == 2 * len({s["prompt"] for s in samples}))
        card = self.all(".sample")[0]
        self.assertIn(f"step {samples[-1]['step']}", card.text)
        card.find_element(By.CSS_SELECTOR, "input").send_keys(Keys.HOME)
        self.wait(lambda: f"step {samples[0]['step']}" in card.text)
        self.assertEqual(card.find_element(By.CSS_SELECTOR, "p").get_attribute("textContent").removesuffix(" …"), samples[0]["prompt"] + samples[0]["text"])
        # Settings side by side: those that differ.
        self.find("details.options summary").click()
        keys = [e.text for e in self.all("details.options tbody th")]
        self.assertIn("optim.lr", keys)
        self.assertIn("train.seed", keys)
        self.assertNotIn("train.steps", keys)
        # What is measured from now on comes by itself.
        step = dict([r for r in log if "val_loss" not in r][-1])
        with open(WORK + "/runs/one/log.jsonl", "a") as out:
            for k in range(1, 4):
                out.write(json.dumps({**step, "step": 100 + k}) + "\n")
                out.flush()
        self.wait(lambda: points("Learning rate") == [103, 100], "the new steps")
        with open(WORK + "/runs/one/samples.jsonl", "a") as out:
            out.write(json.dumps({**samples[-1], "step": 103, "text": "words that came later"}) + "\n")
        with open(WORK + "/runs/one/log.jsonl", "a") as out:
            out.write(json.dumps({**step, "step": 104}) + "\n")
        self.driver.execute_script("document.activeElement.blur()")
        self.wait(lambda: any("words that came later" in c.text and "step 103" in c.text for c in self.all(".sample")), "the new sample")
        # A note is kept.
        note = self.find("tr[data-run=two] input:not([type])")
        note.send_keys("the other one", Keys.TAB)
        self.wait(lambda: next(r for r in api("GET", "/api/runs")["runs"] if r["id"] == "two")["note"] == "the other one")

        # Rollouts: newest first, as text; searched, in order, page by page.
        rows = lambda: [[c.text for c in r.find_elements(By.CSS_SELECTOR, "td")[:4]] for r in self.all(".rollouts tbody tr")]
        self.wait(lambda: len(rows()) == 12)
        self.assertEqual(rows()[0], ["40", "40 + 2 =", "<b>42</b>", "1"])
        self.assertIn("1 to 12 of 40", self.find(".pages").text)
        self.press("Next", ".pages")
        self.wait(lambda: rows()[0][0] == "28")
        self.choose(".rolloutpanel label:nth-child(2) select", "worst")
        self.wait(lambda: [r[3] for r in rows()] == ["0"] * 12)
        self.find(".rolloutpanel input[type=search]").send_keys("<B>4")
        self.wait(lambda: {r[2] for r in rows()} == {"<b>4</b>", "<b>40</b>", "<b>41</b>", "<b>42</b>"})
        self.shot("runs-rollouts")
        self.press("All", ".rollouts")
        shown = self.wait(lambda: self.find("dialog[open]")).text
        self.assertIn("<i>x</i>", shown)
        self.find("dialog").send_keys(Keys.ESCAPE)
        self.assertEqual(len(self.all("main :is(b, i)")), 0)

    def test_a_run_in_training(self):
        run = subprocess.Popen([PROGRAM, "pretrain", WORK + "/tiny.ini", "--run", WORK + "/runs/live", "--train.steps", "1000000",
                                "--checkpoint.every", "0", "--data.val_fraction", "0.1"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
            # Rollouts appear when there are some, and more as they come; a search stays.
            rows = lambda: [r.find_element(By.CSS_SELECTOR, "td").text for r in self.all(".rollouts tbody tr")]
            self.assertEqual(rows(), [])
            with open(WORK + "/runs/live/rollouts.jsonl", "w") as out:
                for step, text in ((1, "one"), (2, "two"), (3, "one more")):
                    out.write(json.dumps({"step": step, "prompt": "?", "text": text, "reward": 1}) + "\n")
                    out.flush()
                    self.wait(lambda: rows() == [str(s) for s in range(step, 0, -1)], "the new rollout")
                self.find(".rolloutpanel input[type=search]").send_keys("one")
                self.wait(lambda: rows() == ["3", "1"])
                out.write(json.dumps({"step": 4, "prompt": "?", "text": "two", "reward": 0}) + "\n")
                out.write(json.dumps({"step": 5, "prompt": "?", "text": "One again", "reward": 1}) + "\n")
                out.flush()
                self.wait(lambda: rows() == ["5", "3", "1"], "those that match")
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

    def test_talk_to_a_run(self):
        self.open("runs")
        link = self.wait(lambda: self.find("tr[data-run=two] a"))
        self.assertEqual(link.accessible_name, "Chat with two/step_000100")
        link.click()
        self.wait(lambda: self.find(".settings select[name=model]").get_attribute("value") == "two/step_000100")
        self.set("max_tokens", 5)
        self.ask("Once")
        self.wait(self.idle)
        self.wait(lambda: self.find(".message.assistant .who").text == "two/step_000100")

    def test_the_server_goes_and_comes_back(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]

        def serve():
            p = subprocess.Popen([PROGRAM, "serve", "--model", WORK + "/runs/one", "--port", str(port), "--store", WORK + "/other.sqlite"],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            p.stdout.readline()
            return p
        server = serve()
        try:
            self.driver.get(f"http://127.0.0.1:{port}/#chat")
            self.wait(lambda: self.find(".settings select[name=model]").get_attribute("value"))
            self.set("max_tokens", 3500)
            self.set("kv_cache", False)
            for _ in range(8):  # a model so small may end an answer by itself
                self.ask("Once upon a time")
                self.wait(lambda: self.idle() or len(self.find(".live .text").text) > 20)
                if not self.idle():
                    break
            server.kill()
            server.wait()
            server.stdout.close()
            bar = self.wait(lambda: self.find(".lost"))
            self.assertIn("does not answer", bar.text)
            self.wait(lambda: self.find(".message.assistant .badge.bad") and self.find(".composer button.primary").is_displayed())
            self.assertGreater(len(self.all(".message.assistant .text")[-1].text), 20)
            self.shot("lost")
            server = serve()
            self.wait(lambda: not self.find(".lost"))
            self.press("Store it")
            self.wait(lambda: not self.button("Store it") and not [b for b in self.all(".badge.bad") if b.text == "not stored"])
            self.driver.refresh()
            self.wait(lambda: len(self.all(".message.assistant .text")[-1].text) > 20)
            self.set("kv_cache", True)
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
            self.driver.get("about:blank")
            self.driver.get_log("browser")  # that requests failed is said there, too

    def test_text_can_be_read(self):
        """Contrast of text to its ground, as WCAG 2.1 AA wants it: 4.5, or 3 where it is large; dark and light."""
        self.addCleanup(self.driver.execute_script, "delete document.documentElement.dataset.theme")
        self.addCleanup(self.driver.execute_cdp_cmd, "Emulation.setEmulatedMedia", {"media": ""})
        self.start(max_tokens=8, trace=True)
        self.ask("The cat")
        self.wait(self.idle)
        conversation = self.driver.current_url.split("#chat/")[1]
        api("POST", f"/api/conversations/{conversation}/messages", {"parent": self.conversation()["head"], "role": "assistant", "model": "m",
            "content": "# Title\n\n> said\n\n`code` [link](https://example.org)\n\n```python\nclass A:  # note\n    x = 'y' + str(3)\n```\n\n| a | b |\n|-|-|\n| 1 | 2 |"})
        for view in ("chat/" + conversation, "experts", "runs"):
            self.open(view)
            if view == "experts":
                self.press("Show experts")
            self.wait(lambda: self.find({"experts": ".tokens", "runs": ".sample"}.get(view, ".code")))
            for theme in ("light", "dark"):
                self.driver.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
                poor = self.driver.execute_script(CONTRAST)
                self.assertEqual(poor, [], f"{view}, {theme}")
                self.shot(f"{theme}-{view.split('/')[0]}")
            # On paper it is light, whatever the screen is.
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
            self.assertEqual(self.driver.execute_script(CONTRAST), [], f"{view}, dark on paper")
            self.assertEqual(self.driver.execute_script("return getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)")
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})

    # ---- what a screen reader gets: the browser's own accessibility tree ----

    def accessible(self):
        """Nodes of the tree: role, name, properties, description, and what stands below."""
        nodes = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        by_id = {n["nodeId"]: n for n in nodes}

        def text(n):
            inner = "".join(text(by_id[c]) for c in n.get("childIds", []) if c in by_id)
            return inner or (n.get("name", {}).get("value", "") if n["role"]["value"] == "StaticText" else "")
        return [{"role": n["role"]["value"], "name": n.get("name", {}).get("value", "").strip(), "text": text(n),
                 "about": n.get("description", {}).get("value", ""),
                 **{p["name"]: p["value"].get("value") for p in n.get("properties", [])}}
                for n in nodes if not n["ignored"]]

    def check_accessible(self, view):
        nodes = self.accessible()
        of = lambda *roles: [n for n in nodes if n["role"] in roles]
        controls = of("button", "link", "textbox", "searchbox", "combobox", "checkbox", "slider", "spinbutton", "radio", "DisclosureTriangle")
        self.assertGreater(len(controls), 8, view)
        for n in controls + of("dialog", "region", "image", "img", "log", "group") + of("columnheader", "rowheader"):
            if n["role"] not in ("group",) or n.get("focusable"):
                self.assertTrue(n["name"], (view, n))
        for n in of("image", "img"):
            self.assertTrue(n["about"], (view, n))  # what a chart shows
        self.assertEqual((len(of("banner")), len(of("main"))), (1, 1), view)
        self.assertIn("Views", [n["name"] for n in of("navigation")])
        levels = [n["level"] for n in of("heading")]
        self.assertEqual((levels[0], levels.count(1)), (1, 1), (view, [(n["level"], n["name"]) for n in of("heading")]))
        for before, after in zip(levels, levels[1:]):
            self.assertLessEqual(after, before + 1, (view, [(n["level"], n["name"]) for n in of("heading")]))
        live = {n["role"]: n.get("live") for n in nodes if n["role"] in ("status", "alert")}
        self.assertEqual(live.get("status"), "polite", view)
        return nodes

    def test_what_is_said_aloud(self):
        self.start(max_tokens=8)
        said = lambda: next(n["text"] for n in self.accessible() if n["role"] == "status")
        self.ask("The cat")
        self.wait(self.idle)
        answer = self.conversation()["messages"][-1]
        self.wait(lambda: "Answered, 8 tokens" in said() or answer["meta"]["tokens"] < 8)
        words = lambda text: re.findall(r"\w+", text)
        self.assertEqual(words(said())[-len(words(answer["content"])):] if words(answer["content"]) else [], words(answer["content"]))
        nodes = self.check_accessible("chat")
        self.assertEqual([n.get("live", "off") for n in nodes if n["role"] == "log"], ["off"])  # tokens one by one would be a stammer
        self.find("#keys").click()
        dialog = self.wait(lambda: [n for n in self.accessible() if n["role"] == "dialog"])[0]
        self.assertEqual((dialog["name"], dialog.get("modal")), ("Keys", True))
        self.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        self.wait(lambda: not self.find("dialog"))
        self.assertEqual(self.driver.switch_to.active_element.get_attribute("id"), "keys")  # where one was
        self.open("experts")
        self.press("Show experts")
        self.wait(lambda: self.find(".tokens"))
        self.check_accessible("experts")
        self.find(".token").send_keys(Keys.ARROW_RIGHT)
        self.wait(lambda: any(n.get("live") == "polite" and "margin" in n["text"] for n in self.accessible()))
        self.open("runs")
        self.wait(lambda: self.find(".sample") and self.find("figure.plot svg"))
        nodes = self.check_accessible("runs")
        self.assertTrue([n for n in nodes if n["role"] in ("image", "img") and "lowest" in n["about"]])
        # With Tab alone: the first stop leads past the head, and each stop has a name and is seen.
        self.open("chat")
        self.wait(lambda: self.find(".settings select[name=model]").get_attribute("value"))
        self.driver.execute_script("document.activeElement.blur()")
        stops = []
        for _ in range(12):
            webdriver.ActionChains(self.driver).send_keys(Keys.TAB).perform()
            at = self.driver.switch_to.active_element
            self.assertTrue(at.accessible_name.strip(), at.get_attribute("outerHTML"))
            stops.append(at.accessible_name)
            seen = self.driver.execute_script("const s = getComputedStyle(arguments[0]); return s.outlineStyle !== 'none' || s.boxShadow !== 'none'", at)
            self.assertTrue(seen, at.get_attribute("outerHTML"))
        self.assertGreater(len(set(stops)), 8, stops)

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
