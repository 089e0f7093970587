"""Whatever is asked of the command line or given to the page: a picture or one line, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from ufogen import UFOGen
from ufogen.app import cli
from ufogen.app.demo import Page
from ufogen.app.demo_model import Studio
from ufogen.app.record import WIDTH
from ufogen.base import models
from ufogen.files import HASHES, sha256
from ufogen.inference import api
from ufogen.inference.export import export_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
SIDE = 2 * tiny.SIZE
COMMANDS = ["sample", "edit", "inpaint"]
PROMPTS = {
    "empty": "",
    "blank": " \t ",
    "long": "red " * 2_500,
    "one long word": "x" * 10_000,
    "scripts": "鯊魚 акула سمك שלום हिन्दी ไทย 🦈👩‍🚀",
    "control": "a\x00noun\x1b[31m\r\n\x7f\x85",
    "direction": "\u202ea noun\u202c\ufeff",
    "combining": "a\u0301" * 500,
    "option": "--seed",
    "markup": "<script>alert(1)</script> ${1+1} {{7*7}} %s",
}
BROKEN = {
    "empty": b"",
    "text": b"not an image",
    "head": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "jpeg head": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "vector": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "cut": None,
}
KINDS: dict[str, Callable[[], Image.Image]] = {
    "grey": lambda: Image.new("L", (40, 30), 100),
    "bit": lambda: Image.new("1", (40, 30), 1),
    "grey and alpha": lambda: Image.new("LA", (40, 30), (100, 9)),
    "rgba": lambda: Image.new("RGBA", (40, 30), (0, 0, 255, 128)),
    "palette": lambda: Image.effect_noise((40, 30), 50).quantize(16),
    "16 bit": lambda: Image.fromarray(np.full((30, 40), 51400, np.uint16)),
    "1 pixel": lambda: Image.new("RGB", (1, 1), (9, 80, 200)),
    "thin": lambda: Image.new("RGB", (1, 3000)),
    "20 megapixels": lambda: Image.new("RGB", (5000, 4000), (9, 80, 200)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hard") / "model"
    export_pipeline(tiny.pipeline(), tiny.unet(seed=9), folder)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> UFOGen:
    return UFOGen.from_pretrained(folder, device="cpu")


@pytest.fixture
def page(model) -> Page:
    return Page(Studio(model, model))


@pytest.fixture
def run(model, folder, capsys, monkeypatch, tmp_path):
    """Run a command on a model that is loaded once; its exit status and what it says on stderr."""
    monkeypatch.setattr(cli, "_load", lambda arguments: model)
    monkeypatch.chdir(tmp_path)

    def command(name: str, prompt: str, image: Path, *options: str) -> tuple[int, str]:
        given = {"sample": [], "edit": [str(image)], "inpaint": [str(image)] * 2}[name]
        capsys.readouterr()
        status = cli.main([name, *options, "-o", "out.png", "--", *given, prompt])
        return status, capsys.readouterr().err

    return command


@pytest.fixture
def white(tmp_path) -> Path:
    Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / "white.png")
    return tmp_path / "white.png"


def assert_picture(done: tuple[int, str]) -> None:
    status, said = done
    assert status == 0 and said.count("\n") <= 1 and (said == "" or said.startswith("note: "))
    assert Image.open("out.png").size == (WIDTH, WIDTH)


def assert_refused(done: tuple[int, str], message: str) -> None:
    status, said = done
    assert status == 2 and said.startswith("error: ") and said.count("\n") == 1 and message in said
    assert not Path("out.png").exists()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_any_text_makes_a_picture(run, white, name, prompt):
    assert_picture(run(name, prompt, white))
    assert json.loads(Image.open("out.png").text["ufogen"])["prompts"] == [prompt]


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_any_text_makes_a_picture_on_the_page(page, prompt):
    for line, grid, *_ in (
        page.redraw(False, prompt, 3, True, 1, 1, None, 0.8, False),
        page.redraw(False, prompt, 3, True, 1, 1, Image.new("RGB", (SIDE, SIDE)), 0.8, False),
        page.draw_base(prompt, 3, 1),
        page.interpolate(prompt, prompt, 3, 4, 2),
    ):
        assert "error" not in line and "data:image/png" in grid


@pytest.mark.parametrize("name", ["edit", "inpaint"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_image_makes_a_picture(run, page, tmp_path, name, kind):
    path = tmp_path / "given.png"
    KINDS[kind]().save(path)
    if name == "edit":
        assert_picture(run(name, "a noun", path))
        line, image, preview = page.read_upload(str(path))
        assert line == "" and image.size == (SIDE, SIDE) and "data:image/png" in preview
        return
    mask = tmp_path / "mask.png"
    Image.new("1", Image.open(path).size, 1).save(mask)
    assert cli.main([name, str(path), str(mask), "a noun", "--steps", "1", "-o", "out.png"]) == 0
    assert Image.open("out.png").size == (WIDTH, WIDTH)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_image_is_one_line(run, page, white, tmp_path, content):
    path = tmp_path / "given.png"
    path.write_bytes(white.read_bytes()[:-30] if content is None else content)
    for name in ("edit", "inpaint"):
        assert_refused(run(name, "a noun", path), "given.png cannot be read")
    line, *rest = page.read_upload(str(path))
    assert line.startswith('<div class="said wrong">error: image given.png cannot be read: ') and "\n" not in line


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "the seed is -1; allowed: 0 ... 4294967295"),
        (["--seed", "4294967296"], "the seed is 4294967296; allowed"),
        (["--seed", "1" * 40], "allowed: 0 ... 4294967295"),
        (["--seed", "4294967295", "-n", "2"], "the last of 2 seeds is 4294967296"),
        (["--steps", "0"], "steps is 0; allowed: 1 ... 1000"),
        (["--steps", "1001"], "steps is 1001; allowed: 1 ... 1000"),
        (["-n", "0"], "pictures a prompt is 0"),
        (["-n", "99999"], "too large"),
        (["--scale", "0"], "the scale is 0; allowed"),
        (["--scale", "1025"], "the scale is 1025; allowed: 1 ... 1024"),
        (["--batch-size", "-1"], "the batch size is -1"),
    ],
)
def test_number_out_of_range_is_one_line(run, white, name, options, message):
    assert_refused(run(name, "a noun", white, *options), message)


def test_mask_of_another_shape_is_one_line(run, white, tmp_path, capsys):
    Image.new("L", (SIDE, SIDE + 1), 255).save(tmp_path / "mask.png")
    run("sample", "a noun", white)
    Path("out.png").unlink()
    status = cli.main(["inpaint", str(white), str(tmp_path / "mask.png"), "a noun", "-o", "out.png"])
    assert_refused((status, capsys.readouterr().err), "the mask, 16x17, does not have the shape of the image, 16x16")


# the released weights


@pytest.fixture
def released(model, tmp_path, monkeypatch) -> Path:
    """A released model of tiny networks, with its base's autoencoder and the recorded hashes of both."""
    trained = model.pipeline
    monkeypatch.setattr(models, "load_text_encoder", lambda *_: (trained.text_encoder, trained.tokenizer))
    folder, base = tmp_path / "models" / api.RELEASED, tmp_path / "models" / api.RELEASED_BASE
    trained.unet.save_pretrained(folder / "unet")
    trained.scheduler.save_pretrained(folder / "scheduler")
    trained.vae.save_pretrained(base / "vae")
    for owner in (folder, base):
        hashes = {str(path.relative_to(owner)): sha256(path) for path in owner.glob("*/*.safetensors")}
        # a wheel holds the base's autoencoder alone, and the record of its denoiser too
        (owner / HASHES).write_text(json.dumps({"unet/diffusion_pytorch_model.safetensors": "0" * 64} | hashes))
    return folder


def test_released_model_with_its_recorded_hashes_loads(released, capsys):
    assert cli.main(["info", str(released), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == sha256(released / "unet")


@pytest.mark.parametrize("part", ["nouns-ufogen/unet", "nouns-sd/vae"])
def test_weights_that_differ_from_the_recorded_hash_are_one_line(released, capsys, part):
    path = released.parent / part / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # still a valid file
    path.write_bytes(content)
    assert cli.main(["info", str(released), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == f"error: weights {path} differ from the hash recorded beside them: get them again\n"


def test_models_of_this_repository_have_their_recorded_hashes():
    root = Path(__file__).resolve().parents[1] / "models"
    for name in (api.RELEASED, api.RELEASED_BASE):
        for path, digest in json.loads((root / name / HASHES).read_text()).items():
            assert sha256(root / name / path) == digest
