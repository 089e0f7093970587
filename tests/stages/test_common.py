"""Outputs are whole or absent, and what the reader sees of a failure is one line."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from ufogen import config
from ufogen.errors import UserError
from ufogen.stages import common

ROOT = Path(__file__).parents[2]


def test_publish_keeps_the_old_output_when_writing_fails(tmp_path: Path):
    target = tmp_path / "out"
    with common.publish(target) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(RuntimeError), common.publish(target) as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Not enough free space to write 5 bytes after offset 128"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_one_clear_line(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def stage(c: config.Config) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["stage", "--params", str(ROOT / "params.yaml"), "threads=1"])
    with pytest.raises(SystemExit, match=r"^error: cannot write an output: .*make room") as stopped:
        common.run(stage)
    assert "\n" not in str(stopped.value)


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    def stage(c: config.Config) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sys, "argv", ["stage", "--params", str(ROOT / "params.yaml"), "threads=1"])
    with pytest.raises(RuntimeError, match="a bug"):
        common.run(stage)


def test_too_little_space_names_folder_and_need(tmp_path: Path):
    with pytest.raises(UserError, match="MiB free, 1073741824 MiB needed"):
        common.require_space(tmp_path, 1 << 50)
