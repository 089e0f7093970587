"""Outputs are whole or absent, and what the reader sees of a failure is one line."""

from __future__ import annotations

import errno
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from ufogen import config
from ufogen.errors import UserError
from ufogen.files import HASHES, altered, sha256, write_together
from ufogen.pipelines import stage as common

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


@pytest.mark.parametrize(("rank", "said"), [("0", "precision auto: {}\n"), ("1", "")])
@pytest.mark.parametrize(("instructions", "found"), [({}, "no"), ({"avx512_bf16": True}, "bf16")])
def test_stage_gets_the_precision_of_its_machine_and_one_process_says_it(rank, said, instructions, found, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys, "argv", ["stage", "--params", str(ROOT / "params.yaml"), "threads=1", "device=cpu"])
    got = []
    common.run(got.append)
    assert (got[0].sampler.precision, got[0].trainer.precision) == (found, found)
    assert capsys.readouterr().out == said.format(found)


def test_artifacts_that_are_a_link_are_said_to_be_one_before_dvc_refuses_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    Path("artifacts").symlink_to("disk")
    monkeypatch.setattr(sys, "argv", ["stage", "--params", str(ROOT / "params.yaml"), "threads=1"])
    ran = []
    common.run(ran.append)  # by hand it works
    monkeypatch.setenv("DVC_STAGE", "prepare")
    with pytest.raises(SystemExit) as stopped:
        common.run(ran.append)
    said = capsys.readouterr().err
    assert len(ran) == 1 and stopped.value.code == 2 and said.count("\n") == 1
    assert re.match(r"error: artifacts is a link, .* `dvc cache dir FOLDER`", said)


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    def stage(c: config.Config) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sys, "argv", ["stage", "--params", str(ROOT / "params.yaml"), "threads=1"])
    with pytest.raises(RuntimeError, match="a bug"):
        common.run(stage)


def test_too_little_space_names_folder_and_need(tmp_path: Path):
    with pytest.raises(UserError, match="MiB free, 1073741824 MiB needed"):
        common.require_space(tmp_path, 1 << 50)


def test_a_table_has_its_columns_in_order_and_numbers_to_six_digits():
    rows = [{"a": 1, "b": 2 / 3, "c": 0}, {"a": 3}, {"a": 1234567, "b": 0.0}]
    assert common.table(rows, ("b", "a")) == "b,a\n0.666667,1\n,3\n0,1234567\n"
    assert common.table(rows[:1], digits=2) == "a,b,c\n1,0.67,0\n"


def test_what_macos_leaves_beside_weights_is_not_in_their_hash(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    before = sha256(tmp_path)
    (tmp_path / "._weights.safetensors").write_bytes(b"macOS")
    assert sha256(tmp_path) == before


@pytest.mark.parametrize("harm", ["change", "remove"])
def test_changed_and_missing_weights_count_as_altered(harm: str, tmp_path: Path):
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "weights.safetensors").write_bytes(part.encode())
    record = {f"{part}/weights.safetensors": sha256(tmp_path / part / "weights.safetensors") for part in ("unet", "vae")}
    assert altered(tmp_path) == []  # without a record
    (tmp_path / HASHES).write_text(json.dumps(record))
    assert altered(tmp_path) == []
    path = tmp_path / "vae/weights.safetensors"
    path.write_bytes(b"other") if harm == "change" else path.unlink()
    assert altered(tmp_path) == altered(tmp_path, "vae") == [path] and altered(tmp_path, "unet") == []


def test_files_that_belong_together_are_written_together_or_not_at_all(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError):
        write_together({tmp_path / "a": b"new", tmp_path / "absent" / "b": b"new"})
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]
    write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}
