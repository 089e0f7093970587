"""The command line: what it writes, what it says, and that bad input leaves one line and no file."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests import tiny
from ufogen import UFOGen
from ufogen.app import cli
from ufogen.app.record import WIDTH
from ufogen.app.usage import EXAMPLES
from ufogen.applications.control import make_control
from ufogen.inference import api
from ufogen.inference.export import export_pipeline
from ufogen.inference.modelcard import CARD_PROMPTS

# diffusers warns about its own defaults and its own use of numpy
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
PROMPT, OTHER = "a noun with red glasses", "the head"
SIDE = 2 * tiny.SIZE
SCALE = WIDTH // SIDE


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "tiny-ufogen"
    export_pipeline(tiny.pipeline(), tiny.unet(seed=9), folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> UFOGen:
    return UFOGen.from_pretrained(folder, device="cpu")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty folder to stand in."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def ufogen(folder, capsys):
    """Run a command on the tiny model; its exit status, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        drawing = arguments[0] in ("sample", "edit", "inpaint", "control") and "--model" not in arguments
        status = cli.main([*map(str, arguments), *(["--model", str(folder)] if drawing else [])])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def source(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "source.png")
    return tmp_path / "source.png"


@pytest.fixture
def mask(tmp_path) -> Path:
    image = Image.new("L", (SIDE, SIDE))
    image.paste(255, (0, 0, SIDE, SIDE // 2))
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def cell(path: Path, row: int, column: int, scale: int = SCALE) -> bytes:
    """A picture of a grid, at its own size."""
    side = SIDE * scale
    image = Image.open(path).crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
    return image.resize((SIDE, SIDE), Image.Resampling.NEAREST).tobytes()


def record(path: Path) -> dict:
    return json.loads(Image.open(path).text["ufogen"])


def assert_refused(done: tuple[int, str, str], message: str, expected: int = 2) -> None:
    status, out, err = done
    assert status == expected and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def process(*arguments: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "ufogen.app.cli", *arguments], capture_output=True, text=True, **settings)


# help and usage


def test_help_needs_no_heavy_import_and_shows_examples():
    code = "import sys; from ufogen.app import cli; sys.argv = ['ufogen', '--help']\ntry: cli.main()\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'diffusers', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'ufogen sample "a noun with a shark head" --seed 3 -n 16 -o grid.png' in done.stdout


@pytest.mark.parametrize("command", ["sample", "edit", "inpaint", "control", "export", "info", "demo", "plan"])
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"examples:\n  ufogen {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["ufogen", "sample", "edit", "inpaint", "control", "export", "info", "demo", "plan"])
def test_examples_are_valid_usage(command):
    for line in EXAMPLES[command].splitlines():
        said = line.split("     ")[0].split("|")[0]  # without the remark beside it
        cli._parser().parse_args(shlex.split(said)[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["sample"],
        ["sample", "a noun", "--prompts", "file"],
        ["sample", "a noun", "--seed", "three"],
        ["sample", "a noun", "--colour", "red"],
        ["edit", "image.png"],
        ["export", "model"],
    ],
)
def test_wrong_usage_is_exit_status_2(arguments, capsys, workplace):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert not any(workplace.iterdir())


# drawing


def test_sample_writes_a_grid_of_the_pictures_of_the_api(ufogen, model, workplace):
    status, out, err = ufogen("sample", PROMPT, "--seed", "3", "-n", "5", "-o", "grid.png")
    assert (status, err) == (0, "") and out.startswith("grid.png: 5 pictures in ")
    assert [path.name for path in workplace.iterdir()] == ["grid.png"]
    assert Image.open("grid.png").size == (3 * WIDTH, 2 * WIDTH)
    for i, image in enumerate(model(PROMPT, seed=3, n=5)):
        assert cell(Path("grid.png"), i // 3, i % 3) == image.tobytes()


def test_single_picture_at_scale_1_is_that_of_stock_diffusers(ufogen, folder):
    ufogen("sample", PROMPT, "--seed", "7", "--steps", "2", "--scale", "1")
    stock = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    rng = torch.Generator().manual_seed(7)
    expected = stock(PROMPT, num_inference_steps=2, guidance_scale=0, generator=rng).images[0]
    assert Image.open("sample.png").tobytes() == expected.tobytes()


def test_prompts_of_a_file_are_rows_of_the_grid(ufogen, model, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(f"\ufeff{PROMPT}\r\n\r\n{OTHER}\r\n".encode())
    status, out, _ = ufogen("sample", "--prompts", tmp_path / "prompts.txt", "-n", "3", "--json")
    pictures = json.loads(out)["images"]
    assert status == 0
    assert pictures == [{"prompt": prompt, "seed": seed} for prompt in (PROMPT, OTHER) for seed in range(3)]
    assert Image.open("sample.png").size == (3 * WIDTH, 2 * WIDTH)
    for i, image in enumerate(model([PROMPT, OTHER], n=3)):
        assert cell(Path("sample.png"), i // 3, i % 3) == image.tobytes()


def test_picture_says_how_it_was_made(ufogen, model):
    text = "rød 鯊魚\x00\n" + "red " * 2_500
    status, _, err = ufogen("sample", text, OTHER, "--seed", "3", "-n", "2", "--steps", "2")
    assert status == 0 and err.startswith("note: 1 of 2 prompts longer than 8 tokens") and err.count("\n") == 1
    found = record(Path("sample.png"))
    assert found["prompts"] == [text, OTHER] and found["seeds"] == [3, 4] and found["steps"] == 2
    assert found["model"] == "tiny-ufogen" and found["model_sha256"] == model.sha256
    assert b"tEXtufogen\0{" in Path("sample.png").read_bytes()
    status, out, _ = ufogen("info", "sample.png", "--json")
    assert status == 0 and json.loads(out) == found
    status, out, _ = ufogen("info", "sample.png")
    assert status == 0 and out.isascii() and "\x00" not in out and "seeds            3 4\n" in out


def test_picture_is_drawn_again_from_its_record(ufogen):
    ufogen("sample", PROMPT, "--seed", "3", "-n", "4", "-o", "first.png")
    made = record(Path("first.png"))
    ufogen("sample", *made["prompts"], "--seed", made["seeds"][2], "--steps", made["steps"], "-o", "again.png")
    assert cell(Path("again.png"), 0, 0) == cell(Path("first.png"), 1, 0)


def test_folder_takes_a_file_for_each_picture(ufogen, model, workplace):
    status, out, _ = ufogen("sample", PROMPT, OTHER, "-n", "2", "--seed", "3", "-o", "pictures/", "--scale", "1", "--json")
    names = ["0001-3.png", "0001-4.png", "0002-3.png", "0002-4.png"]
    assert status == 0 and sorted(path.name for path in (workplace / "pictures").iterdir()) == names
    assert [picture["file"] for picture in json.loads(out)["images"]] == names
    for name, image in zip(names, model([PROMPT, OTHER], seed=3, n=2), strict=True):
        assert Image.open(workplace / "pictures" / name).tobytes() == image.tobytes()
    assert record(workplace / "pictures/0002-3.png")["prompts"] == [OTHER]


def test_edit_and_inpaint_write_the_pictures_of_the_api(ufogen, model, source, mask):
    assert ufogen("edit", source, PROMPT, "--strength", "0.7", "--seed", "3", "-n", "2")[0] == 0
    for i, image in enumerate(model.edit(source, PROMPT, 0.7, seed=3, n=2)):
        assert cell(Path("edit.png"), 0, i) == image.tobytes()
    assert ufogen("inpaint", source, mask, PROMPT, "--seed", "3", "--steps", "2")[0] == 0
    assert cell(Path("inpaint.png"), 0, 0) == model.inpaint(source, mask, PROMPT, seed=3, steps=2)[0].tobytes()
    made = record(Path("edit.png")), record(Path("inpaint.png"))
    assert [m["image"] for m in made] == ["source.png"] * 2 and made[0]["strength"] == 0.7 and made[1]["mask"] == "mask.png"


def test_control_writes_the_pictures_of_the_api(ufogen, model, source, tmp_path):
    folder = tmp_path / "controlnet"
    make_control("controlnet", model.pipeline.unet, 2).save_pretrained(folder)
    assert ufogen("control", source, PROMPT, "--controlnet", folder, "--control-scale", "0.5", "--seed", "3")[0] == 0
    expected = model.control(source, PROMPT, seed=3, controlnet=folder, scale=0.5)[0]
    assert cell(Path("control.png"), 0, 0) == expected.tobytes()
    made = record(Path("control.png"))
    assert (made["command"], made["image"], made["control_scale"]) == ("control", "source.png", 0.5)
    assert_refused(ufogen("control", source, PROMPT, "--controlnet", tmp_path / "absent"), "not a ControlNet's folder")


def test_png_that_ufogen_wrote_can_be_edited_as_it_was(ufogen, model):
    ufogen("sample", PROMPT, "--seed", "3")
    ufogen("edit", "sample.png", OTHER)
    assert cell(Path("edit.png"), 0, 0) == model.edit(model(PROMPT, seed=3)[0], OTHER)[0].tobytes()


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "the seed is -1; allowed: 0 ... 4294967295"),
        (["--seed", str(2**63)], "the seed is 9223372036854775808; allowed"),
        (["--steps", "0"], "steps is 0; allowed: 1 ... 1000"),
        (["-n", "0"], "pictures a prompt is 0"),
        (["-n", "-3"], "pictures a prompt is -3"),
        (["-n", "1000000000000"], "too large: write a folder"),
        (["-n", "1000000000000", "-o", "pictures/"], "allowed: 1 ... 100000"),
        (["--scale", "0"], "the scale is 0; allowed"),
        (["--scale", "100000"], "the scale is 100000; allowed"),
        (["--batch-size", "0"], "the batch size is 0"),
        (["--device", "toaster"], "device toaster cannot be used"),
        (["--model", "missing"], "model missing is not a folder"),
        (["--model", "."], "neither model_index.json nor unet"),
        (["-o", "grid.jpg"], "must end with .png"),
        (["-o", "missing/grid.png"], "cannot write into missing: it is not a folder"),
        (["-o", "missing/pictures/"], "cannot write into missing: it is not a folder"),
        (["-o", f"{__file__}/grid.png"], "it is not a folder"),
        (["-o", "a\n\x1b\nb/grid.png"], "cannot write into a b: it is not a folder"),
    ],
)
def test_bad_request_is_one_line_and_no_file(ufogen, workplace, arguments, message):
    assert_refused(ufogen("sample", PROMPT, *arguments), message)
    assert not any(workplace.iterdir())


@pytest.mark.parametrize("strength", ["-0.1", "1.5", "nan", "inf"])
def test_strength_out_of_range_is_one_line_and_no_file(ufogen, workplace, source, strength):
    assert_refused(ufogen("edit", source, PROMPT, "--strength", strength), f"the strength is {strength}; allowed: 0 ... 1")
    assert not any(workplace.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"not an image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_broken_image_or_mask_is_one_line_and_no_file(ufogen, workplace, source, tmp_path, content):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    assert_refused(ufogen("edit", path, PROMPT), "broken.png cannot be read")
    assert_refused(ufogen("inpaint", path, source, PROMPT), "image")
    assert_refused(ufogen("inpaint", source, path, PROMPT), "mask")
    assert not any(workplace.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"\n \n", "has no prompts"), (b"ok\n\xff\xfe", "is not UTF-8 text at byte 3")],
)
def test_useless_prompt_file_is_one_line(ufogen, tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    assert_refused(ufogen("sample", "--prompts", path), message)


def test_folder_without_permission_is_one_line(ufogen, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert_refused(ufogen("sample", PROMPT), "permission denied")


def test_full_disk_is_one_line_and_leaves_the_old_file(ufogen, workplace, monkeypatch):
    ufogen("sample", PROMPT, "-o", "grid.png")
    before = Path("grid.png").read_bytes()

    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert_refused(ufogen("sample", OTHER, "-o", "grid.png"), "cannot write grid.png: No space left on device")
    assert [path.name for path in workplace.iterdir()] == ["grid.png"] and Path("grid.png").read_bytes() == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "out of memory: try a smaller --batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
    ],
)
def test_lack_of_memory_is_one_line(ufogen, monkeypatch, error, message):
    def fail(*arguments, **settings):
        raise error

    monkeypatch.setattr(UFOGen, "__call__", fail)
    assert_refused(ufogen("sample", PROMPT), message, 1)


def test_other_errors_keep_their_traceback(ufogen, monkeypatch):
    def fail(*arguments, **settings):
        raise RuntimeError("a bug")

    monkeypatch.setattr(UFOGen, "__call__", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        ufogen("sample", PROMPT)


def test_interrupt_is_exit_status_130_without_a_file(ufogen, monkeypatch, workplace):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(UFOGen, "__call__", interrupt)
    assert ufogen("sample", PROMPT) == (130, "", "")
    assert not any(workplace.iterdir())


def test_prompt_that_is_not_unicode_is_one_line(ufogen):
    text = b"\xff noun".decode(errors="surrogateescape")  # as the shell's bytes arrive
    assert_refused(ufogen("sample", text), "the prompt is not valid Unicode at character 1")


def test_process_prints_the_result_alone(folder, workplace):
    """In a process of its own, where libraries print what they like while they are imported."""
    done = process("sample", PROMPT, "--model", str(folder), "--json", cwd=workplace)
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout)["steps"] == 1


def test_reader_that_has_gone_and_narrow_terminal_leave_no_traceback(ufogen, workplace):
    ufogen("sample", "鯊魚")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ufogen.app.cli", "info", "sample.png"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=workplace)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    done = process("info", "sample.png", cwd=workplace, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "") and r"\u9bca\u9b5a" in done.stdout


# info


def test_info_describes_a_model(ufogen, folder, model):
    status, out, err = ufogen("info", folder, "--json", "--device", "cpu")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(model.describe()))
    status, out, _ = ufogen("info", folder)
    assert status == 0 and "image_size       16 16\n" in out and "timesteps        1: 999, 2: 999 499, 4:" in out


@pytest.mark.parametrize("name", ["source.png", "mask.png", "text.txt"])
def test_info_on_another_file_is_one_line(ufogen, source, mask, name):
    (source.parent / "text.txt").write_text("text")
    assert_refused(ufogen("info", source.parent / name), "neither a model folder nor a picture made by ufogen")


def test_info_without_a_released_model_is_one_line(ufogen, monkeypatch, tmp_path):
    monkeypatch.setattr(api, "__file__", str(tmp_path / "src/ufogen/inference/api.py"))
    assert_refused(ufogen("info"), "this installation has no released model")


# export


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_export_loads_in_stock_diffusers_and_draws_the_same(ufogen, folder, model, workplace):
    status, out, err = ufogen("export", folder, "shark")
    assert (status, err) == (0, "") and out.startswith("shark: ")
    assert [path.name for path in workplace.iterdir()] == ["shark"]
    stock = StableDiffusionPipeline.from_pretrained("shark", local_files_only=True)
    expected = stock(PROMPT, num_inference_steps=1, guidance_scale=0, generator=torch.Generator().manual_seed(3)).images[0]
    assert model(PROMPT, seed=3)[0].tobytes() == expected.tobytes()
    assert list(Path("shark").rglob("*.bin")) == []
    card = Path("shark/README.md").read_text()
    assert "# shark\n" in card and model.sha256 in card and "num_inference_steps=1, guidance_scale=0" in card
    assert cell(Path("shark/samples.png"), 1, 2) == model(CARD_PROMPTS[1], seed=2)[0].tobytes()


def test_half_precision_export_is_half_as_large(ufogen, folder):
    ufogen("export", folder, "whole")
    ufogen("export", folder, "half", "--fp16")
    name = "unet/diffusion_pytorch_model.safetensors"
    whole, half = ((Path(f) / name).stat().st_size for f in ("whole", "half"))
    parameters = len(tiny.flat(tiny.unet()))
    assert whole - half == pytest.approx(2 * parameters, abs=1024)
    assert "| weights | float16 |" in Path("half/README.md").read_text()
    assert StableDiffusionPipeline.from_pretrained("half", torch_dtype=torch.float16).unet.dtype == torch.float16
    assert ufogen("sample", PROMPT, "--model", "half")[0] == 0


def test_card_carries_licence_and_metrics_of_the_source(ufogen, folder):
    ufogen("export", folder, "first", "--license", "apache-2.0")
    card = Path("first/README.md")
    assert card.read_text().startswith('---\nlicense: "apache-2.0"\nlibrary_name: "diffusers"\n')
    Path("first/metrics.json").write_text('{"unet": {"kid": 0.75}, "note": "text"}')
    Path("first/LICENSE").write_text("the licence")
    ufogen("export", "first", "second")
    card = Path("second/README.md").read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\n') and "| unet kid | 0.75 |" in card
    assert Path("second/LICENSE").read_text() == "the licence"
    ufogen("export", folder, "third")
    assert "license:" not in Path("third/README.md").read_text().split("---")[1]


def test_export_replaces_a_model_only_when_forced(ufogen, folder):
    ufogen("export", folder, "shark")
    before = files(Path("shark"))
    assert_refused(ufogen("export", folder, "shark", "--fp16"), "shark exists: choose another folder, or replace it")
    assert files(Path("shark")) == before
    assert ufogen("export", folder, "shark", "--fp16", "--force")[0] == 0
    assert files(Path("shark")) != before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("notes", "exists and is not a model"),
        ("notes/file.txt", "exists and is not a model"),
        ("missing/shark", "cannot write into"),
        (".", "exists and is not a model"),
    ],
)
def test_export_never_replaces_what_is_no_model(ufogen, folder, workplace, target, message):
    (workplace / "notes").mkdir()
    (workplace / "notes/file.txt").write_text("mine")
    assert_refused(ufogen("export", folder, target, "--force"), message)
    assert files(workplace) == {"notes/file.txt": b"mine"}


@pytest.mark.parametrize("target", [".", "..", "unet", "new"])
def test_export_into_or_around_its_source_is_refused(ufogen, folder, target):
    before = files(folder)
    assert_refused(ufogen("export", folder, folder / target, "--force"), "lie in one another")
    assert files(folder) == before


def test_export_of_a_model_of_many_steps_is_refused(ufogen, tmp_path, workplace):
    tiny.pipeline().save_pretrained(tmp_path / "base")
    assert_refused(ufogen("export", tmp_path / "base", "shark"), "is no one-step model: its DDIMScheduler takes many steps")
    assert not any(workplace.iterdir())


def test_failed_export_leaves_the_old_model_and_nothing_else(ufogen, folder, workplace, monkeypatch):
    ufogen("export", folder, "shark")
    before = files(workplace)

    def full(self, path, **settings):
        (Path(path) / "model_index.json").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", full)
    assert_refused(ufogen("export", folder, "shark", "--force"), "No space left on device", 1)
    assert_refused(ufogen("export", folder, "new"), "No space left on device", 1)
    assert files(workplace) == before


# streams that are closed, and numbers that are none


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_stream_is_no_failure(folder, workplace, closed):
    asked = shlex.join([sys.executable, "-m", "ufogen.app.cli", "sample", PROMPT, "--model", str(folder), "--device", "cpu"])
    done = subprocess.run(["sh", "-c", f"{asked} {closed}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in workplace.iterdir()] == ["sample.png"]
    assert record(Path("sample.png"))["prompts"] == [PROMPT]


def test_failure_with_closed_streams_keeps_its_exit_status(workplace):
    asked = shlex.join([sys.executable, "-m", "ufogen.app.cli", "info", "missing.png"])
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        assert subprocess.run(["sh", "-c", f"{asked} {closed}"]).returncode == 2


def test_prompts_of_a_closed_stdin_are_one_line(workplace):
    asked = shlex.join([sys.executable, "-m", "ufogen.app.cli", "sample", "--prompts", "-"])
    done = subprocess.run(["sh", "-c", f"{asked} <&-"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: - has no prompts\n")


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf", "-1", "1e30"])
def test_control_scale_that_is_none_is_one_line_and_no_file(ufogen, workplace, source, model, tmp_path, scale):
    make_control("controlnet", model.pipeline.unet, 2).save_pretrained(tmp_path / "controlnet")
    asked = ["control", source, PROMPT, "--controlnet", tmp_path / "controlnet", f"--control-scale={scale}"]
    assert_refused(ufogen(*asked), "the control scale is ")
    assert not any(workplace.iterdir())


@pytest.mark.parametrize("device", ["meta", "mps", "hpu"])
def test_device_that_is_not_there_is_one_short_line(ufogen, workplace, device):
    if device == "mps" and torch.mps.is_available():
        pytest.skip("this machine has one")
    done = ufogen("sample", PROMPT, "--device", device)
    assert_refused(done, f"device {device} cannot be used: ")
    assert len(done[2]) < 300 and not any(workplace.iterdir())
