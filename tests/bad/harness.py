"""One case of bad input: a fresh folder, an entry point called in it as a process would be, and a verdict."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tests import tiny
from tests.folder_files import pictures_folder
from tests.settings import configured
from tests.shard_files import Pair, write_shard
from ufogen import compose, config
from ufogen.app import cli
from ufogen.applications.control import make_control
from ufogen.inference.export import export_pipeline
from ufogen.pipelines import stage
from ufogen.pipelines.main import encode, initialize, prepare, train

ROOT = Path(__file__).parents[2]
SIDE = 2 * tiny.SIZE
STAGES = {"prepare": prepare, "initialize": initialize, "encode": encode, "train": train}
MODEL = ("--model", "in/model", "--device", "cpu")
BAR = re.compile(r"\r?[^\r\n]*\d%\|[^\r\n]*?(?=error: |\r|\n|$)\n?")  # of progress
WORK = ("artifacts/checkpoints", "artifacts/shards")  # where a stopped stage leaves what it goes on with
DATA = {"source": "folder", "path": "in/pictures", "resolution": SIDE, "evaluation_size": 6, "workers": 1}
FROM_BASE = {"generator_init": "base"}
TRAINER = {
    "updates": 2, "batch_size": 4, "warmup": 0, "discriminator_first": 0, "precision": "no",
    "validation_size": 5, "checkpoint_every": 1, "log_every": 1,
    "sample_every": 2, "validate_every": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`make` changes the fresh folder, where it is the working folder; then the entry point runs with the arguments."""

    kind: str
    name: str
    entry: str  # a command of ufogen, a stage, or compose
    arguments: tuple[str, ...] = ()
    make: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return f"{self.kind}: {self.entry}: {self.name}"


def template(folder: Path) -> Path:
    """What every case begins with: pictures, shards, a base, a model, parameters, and the stages' outputs in artifacts/."""
    (folder / "in").mkdir(parents=True)
    with contextlib.chdir(folder):
        pictures_folder(Path("in/pictures"), 20)
        Path("in/shards").mkdir()
        for s in range(2):
            write_shard(Path(f"in/shards/{s:05d}.tar"), [Pair(10 * s + i) for i in range(4)])
        tiny.pipeline().save_pretrained("in/base")
        export_pipeline(tiny.pipeline(), tiny.unet(seed=9), "in/model")
        make_control("controlnet", tiny.unet(), 2).save_pretrained("in/control")
        base = {"source": "diffusers", "path": "in/base", "allow_pickle": False}
        c = configured(device="cpu", threads=1, data=DATA, base=base, trainer=TRAINER, objective=FROM_BASE)
        Path("in/params.yaml").write_text(json.dumps(config.to_dict(c)))
        shutil.copytree(ROOT / "experiments", "in/experiments")
        for name in ("initialize", "prepare", "encode"):
            assert call(name, ()) == (0, ""), name
        write_picture(Path("in/given.png"))
        Path("in/prompts.txt").write_text("a noun\nred glasses\n")
    return folder


def write_picture(path: Path) -> None:
    shutil.copy("in/pictures/0.png", path)


def call(entry: str, arguments: tuple[str, ...]) -> tuple[int, str]:
    """Exit status and stderr, in this process. An exception that a process would die of is status -1 and its traceback."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = _enter(entry, list(arguments))
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
            if isinstance(stopped.code, str):
                print(stopped.code, file=sys.stderr)
        except Exception:
            return -1, said.getvalue() + traceback.format_exc()
    return status or 0, BAR.sub("", said.getvalue())


def _enter(entry: str, arguments: list[str]) -> int | None:
    if entry == "compose":
        return compose.command(arguments)
    if entry not in STAGES:
        return cli.main([entry, *arguments])
    given = ["stage", *([] if "--params" in arguments else ["--params", "in/params.yaml"]), *arguments]
    with mock.patch.object(sys, "argv", given):
        return stage.run(STAGES[entry].main)


def verdict(case: Case, template: Path, place: Path) -> str:
    """`refused` in one line, `handled`, or what is wrong. The folder `place` is made for it and removed."""
    shutil.copytree(template, place, symlinks=True)
    try:
        with contextlib.chdir(place):
            return _verdict(case)
    finally:
        shutil.rmtree(place)


def _verdict(case: Case) -> str:
    case.make()
    given, before = state(Path("in")), _outputs()
    status, said = call(case.entry, case.arguments)
    if state(Path("in")) != given:
        return "input changed"
    if status == 0:
        return "handled"
    left = sorted(_outputs().items() ^ before.items())
    if status == -1 or "Traceback" in said:
        return f"traceback: {said.strip().splitlines()[-1]}"
    if status != 2 and not (status == 1 and "cannot write" in said):
        return f"status {status}: {said}"
    if said.count("\n") != 1 or not said.startswith("error: "):
        return f"{said.count(chr(10))} lines: {said}"
    return f"left {left}" if left else "refused"


def state(folder: Path) -> dict[str, str]:
    """Every path below a folder with the hash of what is there: a file's bytes, or where a link leads."""
    return {str(path): _content(path) for path in sorted(folder.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    return "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


def _outputs() -> dict[str, str]:
    """What lies outside of the input, but for what a stopped stage goes on with."""
    return {name: content for name, content in state(Path()).items() if not name.startswith(("in/", *WORK))}


@contextlib.contextmanager
def full_disk(folder: Path, size: str = "32m") -> Iterator[bool]:
    """A small file system at `folder`, as root where that is allowed; whether there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
