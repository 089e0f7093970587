"""The page of `ufogen demo` without a browser: its pictures are the API's and stock diffusers', its failures one line."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request

import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from tests import tiny
from ufogen import UFOGen
from ufogen.app import cli
from ufogen.app.demo import Page, said
from ufogen.app.demo_model import MAX_CHARACTERS, MAX_PICTURES, Studio
from ufogen.base.models import SCHEDULE
from ufogen.errors import UserError
from ufogen.inference.export import export_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
PROMPT, OTHER = "a noun with red glasses", "the head"
SIDE = 2 * tiny.SIZE
SKIPPED = gr.skip()


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "base"
    tiny.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(base_folder):
    folder = base_folder.with_name("tiny-ufogen")
    export_pipeline(tiny.pipeline(), tiny.unet(seed=9), folder)
    return folder


@pytest.fixture(scope="module")
def studio(folder, base_folder) -> Studio:
    return Studio(UFOGen.from_pretrained(folder, device="cpu"), UFOGen.from_pretrained(base_folder, device="cpu"))


@pytest.fixture(scope="module")
def page(studio) -> Page:
    return Page(studio)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8))


def shown(markup: str) -> list[bytes]:
    """The bytes of the pictures in the page's HTML."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', markup)
    return [Image.open(io.BytesIO(base64.b64decode(data))).tobytes() for data in found]


def redraw(page: Page, renew=False, prompt=PROMPT, seed=3, locked=True, n=2, steps=1, image=None, strength=0.8, beside=False):
    return page.redraw(renew, prompt, seed, locked, n, steps, image, strength, beside)


def bytes_of(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


# what is drawn


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_page_shows_the_pictures_of_the_api(page, studio, steps):
    line, grid, *_ = redraw(page, steps=steps)
    assert shown(grid) == bytes_of(studio.model(PROMPT, seed=3, n=2, steps=steps, batch_size=2))
    assert "seed 3" in grid and "seed 4" in grid
    assert re.fullmatch(rf'<div class="said">2 pictures, {steps} steps?: \d+ ms</div>', line)


def test_page_shows_the_edit_of_an_upload(page, studio, image):
    grid = redraw(page, image=image, strength=0.6)[1]
    assert shown(grid) == bytes_of(studio.model.edit(image, PROMPT, 0.6, seed=3, n=2, batch_size=2))


def test_base_draws_what_stock_diffusers_draws_from_the_same_noise(page, base_folder):
    """25 DDIM steps with guidance 2, from the seed's own noise."""
    stock = StableDiffusionPipeline.from_pretrained(base_folder, local_files_only=True)
    stock.scheduler = DDIMScheduler(**SCHEDULE | {"set_alpha_to_one": True})
    rngs = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = stock([PROMPT] * 2, num_inference_steps=25, guidance_scale=2, generator=rngs).images
    line, grid = page.draw_base(PROMPT, 3, 2)
    assert "2 pictures, 25 steps, guidance 2: " in line
    for found, image in zip(shown(grid), expected, strict=True):
        difference = np.abs(np.frombuffer(found, np.uint8).astype(int) - np.asarray(image, int).ravel())
        assert difference.max() <= 1 and (difference > 0).mean() < 0.02


def test_interpolation_begins_and_ends_with_the_pictures_of_the_ends(page, studio):
    frames = shown(page.interpolate(PROMPT, OTHER, 3, 8, 5)[1])
    ends = bytes_of([*studio.model(PROMPT, seed=3), *studio.model(OTHER, seed=8)])
    for found, expected in zip((frames[0], frames[-1]), ends, strict=True):
        assert np.abs(np.subtract(np.frombuffer(found, np.uint8), np.frombuffer(expected, np.uint8), dtype=int)).max() <= 1
    assert len(set(frames)) == 5
    assert len(set(shown(page.interpolate(PROMPT, "", 3, 3, 3)[1]))) == 1


def test_prompt_that_is_cut_is_told(page):
    assert "more than 8 tokens" in redraw(page, prompt="red " * 20)[0]


# seeds, and who is asked


def test_locked_seed_stays_and_an_unlocked_one_is_new(page):
    assert redraw(page, renew=None, locked=True)[2] == SKIPPED
    seeds = {redraw(page, renew=None, locked=False)[2] for _ in range(4)}
    assert len(seeds) > 1 and all(0 <= seed < 1_000_000 for seed in seeds)
    assert isinstance(redraw(page, renew=True, locked=True)[2], int)
    assert redraw(page, renew=False, locked=False)[2] == SKIPPED  # another setting was changed


def test_new_seed_is_the_one_drawn(page, studio):
    _, grid, seed, *_ = redraw(page, renew=True)
    assert shown(grid) == bytes_of(studio.model(PROMPT, seed=seed, n=2, batch_size=2))


def test_base_beside_is_asked_for_the_same_pictures(page):
    *_, base_line, base_grid, wanted = redraw(page, beside=True)
    assert base_line == base_grid == SKIPPED and wanted == (PROMPT, 3, 2)
    assert shown(page.draw_beside(wanted)[1]) == shown(page.draw_base(PROMPT, 3, 2)[1])
    *_, base_line, base_grid, wanted = redraw(page, beside=False)
    assert (base_line, base_grid, wanted) == ("", "", None) and page.draw_beside(None) == ("", "")


# bad input


def assert_line(outputs: tuple, message: str) -> None:
    """One line in the first output; what is on the page otherwise stays."""
    line, *rest = outputs
    assert re.fullmatch(r'<div class="said wrong">error: [^\n]*</div>', line) and message in line
    assert all(output == SKIPPED for output in rest)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompt": "x" * (MAX_CHARACTERS + 1)}, "the prompt has 10,001 characters; allowed: 10,000"),
        ({"prompt": "a\ud800noun"}, "not valid Unicode at character 2"),
        ({"prompt": None}, "a prompt is a text, not NoneType"),
        ({"seed": None}, "a seed is a whole number, not None"),
        ({"seed": -1}, "the seed is -1; allowed: 0 ... 4294967295"),
        ({"seed": 2**32}, "the seed is 4294967296; allowed"),
        ({"seed": 10**30}, "allowed: 0 ... 4294967295"),
        ({"seed": 2**32 - 1}, "the last of 2 seeds is 4294967296"),
        ({"n": 0}, "the number of pictures is 0; allowed: 1, 2"),
        ({"n": MAX_PICTURES + 1}, "the number of pictures is 17"),
        ({"n": None}, "the number of pictures is None"),
        ({"steps": 3}, "the number of steps is 3; allowed: 1, 2, 4"),
        ({"steps": 10**9}, "the number of steps is 1000000000"),
        ({"strength": 1.5, "image": Image.new("RGB", (SIDE, SIDE))}, "the strength is 1.5; allowed: 0 ... 1"),
        ({"strength": float("nan"), "image": Image.new("RGB", (SIDE, SIDE))}, "the strength is nan"),
    ],
)
def test_impossible_drawing_is_one_line(page, request_, message):
    assert_line(redraw(page, **request_), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((PROMPT, -1, 2), "the seed is -1"), ((PROMPT, 3, 99), "pictures is 99"), (("x" * 10_001, 3, 2), "10,001 characters")],
)
def test_impossible_request_of_the_base_is_one_line(page, arguments, message):
    assert_line(page.draw_base(*arguments), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PROMPT, OTHER, 3, -1, 3), "the seed is -1"),
        ((PROMPT, OTHER, None, 3, 3), "not None"),
        ((PROMPT, OTHER, 3, 3, 1), "the number of frames is 1; allowed: 2"),
        ((PROMPT, "x" * 10_001, 3, 3, 3), "10,001 characters"),
    ],
)
def test_impossible_interpolation_is_one_line(page, arguments, message):
    assert_line(page.interpolate(*arguments), message)


def test_base_that_is_not_there_is_one_line(studio):
    page = Page(Studio(studio.model))
    assert_line(page.draw_base(PROMPT, 3, 2), "there is no base model: name its folder with --base")


def test_upload_of_too_many_pixels_is_one_line(page, tmp_path):
    Image.new("1", (5001, 5000)).save(tmp_path / "large.png")
    assert_line(page.read_upload(str(tmp_path / "large.png")), "large.png has 5001x5000 pixels; allowed: 25,000,000 in all")


def test_line_names_the_file_alone_and_cannot_inject(page, tmp_path):
    path = tmp_path / "<b>x&y.png"
    path.write_bytes(b"not an image")
    assert_line(page.read_upload(str(path)), "image &lt;b&gt;x&amp;y.png cannot be read")
    assert str(tmp_path) not in page.read_upload(str(path))[0]


def test_failure_that_nobody_foresaw_is_one_line_too(page, monkeypatch, caplog):
    def fail(*arguments, **settings):
        raise RuntimeError("a bug\nin two lines")

    monkeypatch.setattr(Studio, "draw", fail)
    assert_line(redraw(page), "RuntimeError: a bug in two lines")
    assert "Traceback" in caplog.text  # for whoever serves the page


def test_upload_is_seen_as_the_model_sees_it(page, image, tmp_path):
    image.resize((5 * SIDE, 5 * SIDE), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    line, read, preview = page.read_upload(str(tmp_path / "large.png"))
    assert line == "" and read.tobytes() == image.tobytes() and shown(preview) == [image.tobytes()]


def test_line_stays_one_line():
    assert said("a\nb\t<c>") == '<div class="said">a b &lt;c&gt;</div>'


# the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "256.0.0.1"], "the page cannot be served at 256.0.0.1, port any: "),
        (["--host", "203.0.113.9"], "the page cannot be served at 203.0.113.9, port any: "),
        (["--port", "99999"], "the port is 99999; allowed: 1 ... 65535"),
        (["--port", "-1"], "the port is -1; allowed: 1 ... 65535"),
        (["--base", "missing"], "model missing is not a folder"),
    ],
)
def test_page_that_cannot_be_served_is_one_line(folder, capsys, arguments, message):
    assert cli.main(["demo", "--model", str(folder), "--device", "cpu", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1


def test_port_in_use_is_one_line(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["demo", "--model", str(folder), "--device", "cpu", "--port", port]) == 2
    assert f"127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err


PROXIES = {
    "http": {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
    "all": {"ALL_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.org"},
    "socks": {"all_proxy": "socks5://127.0.0.1:9"},
    "no address": {"http_proxy": "http://[:9", "all_proxy": "nothing"},
}


@pytest.mark.parametrize("proxies", PROXIES.values(), ids=PROXIES)
def test_page_is_served_whatever_proxies_the_environment_names(folder, tmp_path, proxies):
    command = [sys.executable, "-m", "ufogen.app.cli", "demo", "--json", "--device", "cpu", "--model", str(folder)]
    with (tmp_path / "stderr").open("w") as errors:
        process = subprocess.Popen(command, env=os.environ | proxies, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith('{"url": "http://127.0.0.1:'), (tmp_path / "stderr").read_text()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert b"UFOGen" in direct.open(json.loads(line)["url"], timeout=120).read()
        process.terminate()
        assert process.wait(120) == 143 and "Traceback" not in (tmp_path / "stderr").read_text()
    finally:
        process.kill()


def test_missing_gradio_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo", "--model", str(folder)]) == 2
    message = "error: the page needs gradio, which is not installed: pip install 'gradio>=6.31,<7'\n"
    assert capsys.readouterr().err == message


def test_studio_names_what_is_wrong(studio):
    with pytest.raises(UserError, match="frames is 17"):
        studio.interpolate((PROMPT, OTHER), (1, 2), 17)
