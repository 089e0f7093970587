"""The page of `ufogen demo` as its reader has it: in a process of its own, in a browser that has no window."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests import tiny
from ufogen import UFOGen
from ufogen.app.demo import Page
from ufogen.app.demo_model import Studio
from ufogen.inference.export import export_pipeline

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no browser: apt-get install chromium chromium-driver"),
]
FLAGS = "headless=new no-sandbox disable-gpu disable-dev-shm-usage disable-background-networking no-first-run"
PATIENCE = 120  # seconds; other work may have the cores
SIDE = 2 * tiny.SIZE


class Server:
    """`ufogen demo` on tiny networks, with a home, a working and a temporary folder that are empty before."""

    def __init__(self, root: Path):
        self.folders = [root / name for name in ("home", "place", "temporary")]
        for folder in self.folders:
            folder.mkdir()
        home, place, temporary = self.folders
        tiny.pipeline().save_pretrained(root / "base")
        self.model = root / "model"
        export_pipeline(tiny.pipeline(), tiny.unet(seed=9), self.model)
        command = [sys.executable, "-m", "ufogen.app.cli", "demo", "--json", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--model", self.model, "--base", root / "base"],
            cwd=place,
            env=os.environ | {"HOME": str(home), "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(home / "cache")},
            stdout=subprocess.PIPE,
            stderr=(root / "stderr").open("w"),
            text=True,
        )
        self.url = json.loads(self.process.stdout.readline())["url"]

    def files(self) -> list[Path]:
        return [path for folder in self.folders for path in folder.rglob("*") if path.is_file()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("page"))
    yield server
    server.process.kill()


@pytest.fixture(scope="module")
def drawn(server):
    """The four pictures that the page must show for a prompt and a seed."""
    page = Page(Studio(UFOGen.from_pretrained(server.model, device="cpu")))

    @functools.cache
    def draw(prompt: str, seed: int) -> list[str]:
        grid = page.redraw(False, prompt, seed, True, 4, 1, None, 0.8, False)[1]
        return re.findall(r'src="([^"]+)"', grid)

    return draw


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1280,860")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, Service(DRIVER))
    yield browser
    browser.quit()


class Reader:
    """Who sits before the page."""

    def __init__(self, browser: webdriver.Chrome, url: str):
        self.browser = browser
        browser.get("about:blank")  # the page before may have something under way, and says so when it is left
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(url)
        self.wait(lambda: self.pictures("#grid"))

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, PATIENCE, 0.1).until(lambda _: condition())

    def find(self, selector: str):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def pictures(self, place: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(image => image.src)"
        return self.browser.execute_script(script, f"{place} img")

    def text(self, place: str) -> str:
        return self.find(place).text

    def changed(self, place: str, action: Callable[[], object]) -> list[str]:
        """The pictures that an action leads to."""
        before = self.pictures(place)
        action()
        self.wait(lambda: self.pictures(place) not in (before, []))
        return self.pictures(place)

    def type(self, selector: str, text: str) -> None:
        box = self.find(selector)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text)


PROMPT = "#prompt textarea, #prompt input"


@pytest.fixture
def reader(browser, server):
    """A fresh page; at the end the console is without errors and nothing was asked of another host."""
    reader = Reader(browser, server.url)
    yield reader
    said = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert said == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked and [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []


def test_pictures_follow_the_prompt_as_it_is_typed(reader, drawn):
    assert reader.pictures("#grid") == drawn("a noun with a shark head", 3)
    assert "4 pictures, 1 step: " in reader.text("#line")
    reader.type(PROMPT, "a noun")
    reader.wait(lambda: reader.pictures("#grid") == drawn("a noun", 3))
    reader.find(PROMPT).send_keys(" with red glasses")  # keystrokes in a row: the newest prompt wins
    reader.wait(lambda: reader.pictures("#grid") == drawn("a noun with red glasses", 3))


def test_seed_lock_keeps_the_pictures_and_without_it_they_are_new(reader, drawn):
    seed, lock = reader.find("#seed input"), reader.find("#lock input")
    assert seed.get_attribute("value") == "3"
    lock.click()
    reader.changed("#grid", lambda: reader.find(PROMPT).send_keys("s"))
    reader.wait(lambda: seed.get_attribute("value") != "3")
    lock.click()
    locked = seed.get_attribute("value")
    for prompt in ("the head", "red glasses"):
        reader.type(PROMPT, prompt)
        reader.wait(lambda prompt=prompt: reader.pictures("#grid") == drawn(prompt, int(locked)))
        assert seed.get_attribute("value") == locked
    reader.changed("#grid", reader.find("#renew").click)
    reader.wait(lambda: seed.get_attribute("value") != locked)
    reader.type("#seed input", locked)
    reader.wait(lambda: reader.pictures("#grid") == drawn("red glasses", int(locked)))


def test_upload_is_redrawn_and_bad_ones_are_one_line(reader, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).resize((400, 300)).save(tmp_path / "photo.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    (tmp_path / "large.png").write_bytes(bytes(11_000_000))
    choose = reader.browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys
    first = reader.pictures("#grid")
    edited = reader.changed("#grid", lambda: choose(str(tmp_path / "photo.png")))
    reader.wait(lambda: len(reader.pictures("#preview")) == 1)
    choose(str(tmp_path / "large.png"))
    reader.wait(lambda: "exceed the maximum allowed size" in reader.text("[class*=toast]"))
    choose(str(tmp_path / "broken.png"))
    reader.wait(lambda: reader.text("#line").startswith("error: image broken.png cannot be read"))
    assert "\n" not in reader.text("#line") and reader.pictures("#grid") == edited
    assert reader.changed("#grid", reader.find("#remove").click) == first
    assert reader.pictures("#preview") == []


def test_base_stands_beside_when_it_is_asked(reader):
    assert reader.pictures("#base-grid") == []
    drawn = reader.changed("#base-grid", reader.find("#ask").click)
    assert len(drawn) == 4 and "4 pictures, 25 steps, guidance 2: " in reader.text("#base-line")
    reader.type(PROMPT, "a noun")
    reader.wait(lambda: reader.pictures("#base-grid") == [])
    reader.changed("#base-grid", reader.find("#beside input").click)
    reader.changed("#base-grid", lambda: reader.type(PROMPT, "red glasses"))


def test_interpolation_is_drawn(reader):
    tabs = reader.browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")
    next(tab for tab in tabs if tab.text == "Interpolate").click()
    reader.wait(lambda: len(reader.pictures("#way")) == 9)
    reader.changed("#way", lambda: reader.type("#to-seed input", "8"))


def test_error_is_one_line_and_the_page_goes_on(reader):
    reader.type("#seed input", "-1")
    reader.wait(lambda: reader.text("#line") == "error: the seed is -1; allowed: 0 ... 4294967295")
    assert len(reader.pictures("#grid")) == 4
    reader.type("#seed input", "7")
    reader.wait(lambda: "seed 7" in reader.text("#grid"))
    assert reader.text("#line").startswith("4 pictures")


def test_nothing_is_left_when_the_page_ends(server):
    """Last in this file: it stops the page."""
    own = [path for path in server.files() if path.is_relative_to(server.folders[2])]
    assert any(path.name == "photo.png" for path in own)
    assert {path.relative_to(server.folders[2]).parts[0][:12] for path in own} == {"ufogen-demo-"}
    assert server.stop() == 143
    assert server.files() == []
    assert (server.folders[2].parent / "stderr").read_text() == ""
