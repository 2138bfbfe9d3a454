"""The page in headless Chromium: what its tests share.  Arguments: URL URL_WITH_KEY PROGRAM WORK SHOTS."""
import json, sys, unittest, urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

URL, LOCKED, PROGRAM, WORK, SHOTS = sys.argv[1:6]
URL, LOCKED = URL.rstrip("/"), LOCKED.rstrip("/")
PATIENCE = 180  # seconds, for a machine that is busy; nothing here is about speed


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
        cls.driver.set_script_timeout(PATIENCE)
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
