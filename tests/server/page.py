"""The page in headless Chromium: page.py URL URL_WITH_KEY PROGRAM WORK SHOTS.  What is shown is compared with what the API
says."""
import glob, os, re, sys, unittest, urllib.error, urllib.request

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser import Page, URL, WORK, api, load
from page_views import Views  # noqa: F401  its tests run, too


class Chat(Page):
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
        self.assertEqual(answer["content"], alone["choices"][0]["message"]["content"].replace("\0", "\ufffd"))
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
            self.assertEqual(m["content"], alone["choices"][0]["message"]["content"].replace("\0", "\ufffd"))
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

    def test_code_is_coloured_and_stays_what_it_was(self):
        code = 'def f(x):  # <b>&amp;\n    return "<i>" + str(x) * 3 if x else None\n'
        text = f"```python\n{code}```\n\n```no-such-language\n{code}```\n\n```c\nint main(void) {{ return 1 < 2; }}\n```"
        c = api("POST", "/api/conversations", {"title": "code"})
        q = api("POST", f"/api/conversations/{c['id']}/messages", {"parent": None, "role": "user", "content": "code"})
        api("POST", f"/api/conversations/{c['id']}/messages", {"parent": q["id"], "role": "assistant", "content": text, "model": "m"})
        self.open("chat/" + c["id"])
        blocks = self.wait(lambda: len(self.all(".code pre")) == 3 and self.all(".code pre"))
        shown = [b.get_attribute("textContent").rstrip("\n") for b in blocks]
        self.assertEqual(shown, [code.rstrip("\n"), code.rstrip("\n"), "int main(void) { return 1 < 2; }"])
        words = lambda b, css: [e.text for e in b.find_elements(By.CSS_SELECTOR, css)]
        self.assertEqual(words(blocks[0], ".hljs-keyword")[:2], ["def", "return"])
        self.assertEqual(words(blocks[0], ".hljs-comment"), ["# <b>&amp;"])
        self.assertEqual(words(blocks[1], "[class^=hljs]"), [])
        self.assertIn("return", words(blocks[2], ".hljs-keyword"))
        self.shot("chat-code")

    def test_conversations_are_renamed_found_and_deleted(self):
        made = [api("POST", "/api/conversations", {"title": f"number {i} of many"})["id"] for i in range(9)]
        self.open("chat/" + made[4])
        entry = lambda id_: self.find(f".side.left a[href='#chat/{id_}']")
        self.wait(lambda: entry(made[4]) and entry(made[4]).get_attribute("aria-current") == "true")
        search = self.find(".side.left input[type=search]")
        search.send_keys("Number 4")
        self.wait(lambda: len(self.all(".side.left li a")) == 1)
        self.find("[aria-label='Rename number 4 of many']").click()
        box = self.wait(lambda: self.find("dialog input"))
        box.clear()
        box.send_keys("<u>another</u>", Keys.ENTER)
        self.wait(lambda: api("GET", "/api/conversations/" + made[4])["title"] == "<u>another</u>")
        search.clear()
        search.send_keys("another")
        self.wait(lambda: entry(made[4]) and entry(made[4]).text == "<u>another</u>")
        self.find("[aria-label='Delete <u>another</u>']").click()
        self.press("Delete", "dialog")
        self.wait(lambda: made[4] not in [c["id"] for c in api("GET", "/api/conversations")["conversations"]])
        self.wait(lambda: "None has that title." in self.find(".side.left").text)
        search.clear()
        search.send_keys(" ", Keys.BACKSPACE)
        self.wait(lambda: len(self.all(".side.left li a")) >= 8)
        for id_ in made[:4] + made[5:]:
            api("DELETE", "/api/conversations/" + id_)

    def test_keys(self):
        self.start(max_tokens=6)
        self.ask("The sun")
        self.wait(self.idle)
        body = lambda *keys: self.find("body").send_keys(*keys)
        self.driver.execute_script("document.activeElement.blur()")
        body("?")
        shown = self.wait(lambda: self.find("dialog[open]")).text
        for key in ("Esc", "Shift+Enter", "/", "n", "r", "e", "x", "[", "]", "1", "t"):
            self.assertIn(key, shown)
        self.shot("keys")
        self.find("dialog").send_keys(Keys.ESCAPE)
        self.wait(lambda: not self.find("dialog"))
        body("e")
        self.wait(lambda: self.driver.switch_to.active_element.get_attribute("aria-label") == "Changed message")
        self.driver.switch_to.active_element.send_keys("?1n", Keys.ESCAPE)  # what is typed is no command
        self.wait(lambda: not self.find("dialog") and not self.find(".message.user textarea"))
        self.answers = 0
        body("r")
        self.wait(lambda: self.idle() and "2 of 2" in self.find(".message.assistant header").text)
        body("/")
        self.assertEqual(self.driver.switch_to.active_element.get_attribute("aria-label"), "Message")
        self.driver.execute_script("document.activeElement.blur()")
        body("x")
        self.wait(lambda: "#experts/" in self.driver.current_url and self.find(".tokens"))
        body("]")
        self.wait(lambda: self.find(".layer output").text == "1 of 1")
        body("3")
        self.wait(lambda: self.find(".runs"))
        body("1")
        self.wait(lambda: self.find(".composer"))
        body("n")
        self.wait(lambda: self.find(".starters"))
        # Whoever goes on with Tab reaches every control, sees where, and comes back to where the way began.
        self.driver.execute_script("document.querySelector('.skip').focus()")
        reached = []
        for _ in range(120):
            at = self.driver.switch_to.active_element
            name, outline = at.accessible_name, at.value_of_css_property("outline-style")
            if at.tag_name == "body" or (reached and at == reached[0]):
                break
            reached.append(at)
            self.assertNotEqual(outline, "none", name)
            at.send_keys(Keys.TAB)
        names = {e.accessible_name for e in reached}
        for name in ("Chat", "Runs", "New conversation", "Message", "Send", "Model", "System prompt", "KV cache", "Measure the KV cache …"):
            self.assertIn(name, names)

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


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=2)
