"""Checkpoints are whole or absent, and belong to one run."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.settings import configured
from ufogen.errors import UserError
from ufogen.training import checkpoint as module
from ufogen.training.checkpoint import MAY_CHANGE, Checkpoint, Rounds, deciding, fingerprint
from ufogen.training.loop import make_accelerator


@pytest.fixture
def model() -> torch.nn.Linear:
    return torch.nn.Linear(2, 2)


@pytest.fixture
def accelerator(model) -> Accelerator:
    accelerator = make_accelerator("cpu", "no")
    accelerator.prepare(model)
    return accelerator


def fill(model: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def content(model: torch.nn.Module) -> set[float]:
    return {value for parameter in model.parameters() for value in parameter.flatten().tolist()}


def test_saved_state_is_restored(tmp_path, model, accelerator):
    checkpoint = Checkpoint(tmp_path, accelerator, "run")
    fill(model, 3.0)
    checkpoint.save(7)
    fill(model, 0.0)
    assert checkpoint.exists()
    assert checkpoint.load() == 7
    assert content(model) == {3.0}


def test_nothing_to_restore_is_update_0(tmp_path, model, accelerator):
    fill(model, 3.0)
    checkpoint = Checkpoint(tmp_path / "absent", accelerator, "run")
    assert not checkpoint.exists()
    assert checkpoint.load() == 0
    assert content(model) == {3.0}


def test_checkpoint_of_another_run_is_refused_and_kept(tmp_path, model, accelerator):
    fill(model, 3.0)
    Checkpoint(tmp_path, accelerator, "run").save(7)
    fill(model, 5.0)
    other = Checkpoint(tmp_path, accelerator, "other run")
    for read in (other.exists, other.load):
        with pytest.raises(UserError, match=f"step-0000007 is of a run with another.*delete {tmp_path} to start anew"):
            read()
    assert content(model) == {5.0}
    assert Checkpoint(tmp_path, accelerator, "run").load() == 7


def test_newest_two_states_are_kept_and_one_while_the_next_is_written(tmp_path, model, accelerator, monkeypatch):
    checkpoint = Checkpoint(tmp_path, accelerator, "run")
    save_state, held = accelerator.save_state, []
    monkeypatch.setattr(
        accelerator, "save_state", lambda folder: (held.append(len(list(tmp_path.iterdir()))), save_state(folder))
    )
    for step in (5, 10, 200):
        fill(model, step)
        checkpoint.save(step)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-0000010", "step-0000200"]
    assert held == [1, 2, 2]
    assert checkpoint.load() == 200
    assert content(model) == {200.0}


class Stop(Exception):
    """What ends a process in the middle of a save."""


def stop(*_, **__):
    raise Stop


@pytest.mark.parametrize("moment", ["before the first file", "after some files", "before the renaming"])
def test_interrupted_save_leaves_the_older_state(tmp_path, model, accelerator, monkeypatch, moment):
    checkpoint = Checkpoint(tmp_path, accelerator, "run")
    fill(model, 1.0)
    checkpoint.save(1)
    fill(model, 2.0)
    save_state = accelerator.save_state
    with monkeypatch.context() as patch:
        if moment == "before the first file":
            patch.setattr(accelerator, "save_state", stop)
        elif moment == "after some files":
            patch.setattr(accelerator, "save_state", lambda folder: (save_state(folder), stop()))
        else:
            patch.setattr(module.os, "replace", stop)
        with pytest.raises(Stop):
            checkpoint.save(2)
    assert checkpoint.load() == 1
    assert content(model) == {1.0}
    fill(model, 2.0)
    checkpoint.save(2)  # what was left half-made is no obstacle
    assert checkpoint.load() == 2
    assert content(model) == {2.0}


def test_interrupted_first_save_leaves_nothing(tmp_path, model, accelerator, monkeypatch):
    checkpoint = Checkpoint(tmp_path, accelerator, "run")
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", stop)
        with pytest.raises(Stop):
            checkpoint.save(1)
    assert checkpoint.load() == 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


HARM = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("name", ["model.safetensors", "run.json"])
@pytest.mark.parametrize("harm", HARM)
def test_damaged_state_is_said_in_a_line_and_the_one_before_is_used(harm, name, tmp_path, model, accelerator, capsys):
    before = Checkpoint(tmp_path, accelerator, "run")
    for step in (1, 2):
        fill(model, step)
        before.save(step, {"number": step})
    HARM[harm](tmp_path / "step-0000002" / name)
    checkpoint = Checkpoint(tmp_path, accelerator, "run")
    assert (checkpoint.load(), checkpoint.notes, content(model)) == (1, {"number": 1}, {1.0})
    (said,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        rf"checkpoint .*step-0000002 is damaged \({name} (was changed|is missing)( or was changed)?\): "
        "training goes on from step-0000001", said
    )  # fmt: skip
    checkpoint.save(3)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-0000001", "step-0000003"]


def test_where_no_state_is_whole_the_run_starts_anew_and_says_so(tmp_path, model, accelerator, capsys):
    before = Checkpoint(tmp_path, accelerator, "run")
    for step in (1, 2):
        before.save(step)
    for step in (1, 2):
        flip(tmp_path / f"step-{step:07d}" / "model.safetensors")
    fill(model, 5.0)
    checkpoint = Checkpoint(tmp_path, accelerator, "run")
    assert checkpoint.exists() and checkpoint.load() == 0 and content(model) == {5.0}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.endswith("there is no other, and training starts anew") for line in said)


def test_state_of_earlier_code_has_no_hashes_and_is_taken(tmp_path, model, accelerator):
    fill(model, 3.0)
    Checkpoint(tmp_path, accelerator, "run").save(7)
    (tmp_path / "step-0000007/run.json").write_text('{"run": "run", "step": 7}')
    fill(model, 0.0)
    assert Checkpoint(tmp_path, accelerator, "run").load() == 7
    assert content(model) == {3.0}


def test_half_deleted_older_state_is_ignored(tmp_path, model, accelerator):
    Checkpoint(tmp_path, accelerator, "run").save(2)
    (tmp_path / "step-0000001").mkdir()  # a stop while the older state was being deleted
    assert Checkpoint(tmp_path, accelerator, "run").load() == 2


def test_cleared_run_starts_anew(tmp_path, model, accelerator):
    checkpoint = Checkpoint(tmp_path / "run", accelerator, "run")
    checkpoint.save(3)
    checkpoint.clear()
    assert not (tmp_path / "run").exists()
    assert checkpoint.load() == 0


def test_fingerprint_depends_on_every_part_but_not_on_the_order_of_keys():
    parts = (0, {"a": 1, "b": [1, 2]}, 0.5)
    assert fingerprint(*parts) == fingerprint(0, {"b": [1, 2], "a": 1}, 0.5)
    others = [(1, parts[1], 0.5), (0, {"a": 1, "b": [2, 1]}, 0.5), (0, parts[1], 0.25), parts[:2]]
    assert len({fingerprint(*other) for other in [parts, *others]}) == 5


def test_what_may_change_in_a_run_is_the_table_and_nothing_else():
    c = configured()
    sections = [c.trainer, c.pretrain.denoiser, c.data]
    assert {type(section) for section in sections} == set(MAY_CHANGE)
    for section in sections:
        names = {field.name for field in fields(section)}
        assert MAY_CHANGE[type(section)] < names and set(deciding(section)) == names - MAY_CHANGE[type(section)]
    assert {"updates", "batch_size", "keep", "precision", "generator_learning_rate", "ema_decay"} < set(deciding(c.trainer))
    assert {"resolution", "crop", "minimum_score", "caption_key"} < set(deciding(c.data))


def test_the_table_of_the_docs_is_that_of_the_code():
    page = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text().split("## Stopped")[1]
    for section, row in zip(MAY_CHANGE, [line for line in page.splitlines() if line.startswith("| `")], strict=True):
        said = set(re.findall(r"`(\w+)`", row.split("|")[2]))
        others = {"tracked", "captions", "train_size", "evaluation_size", "node_modules", "split"}  # not of shards
        assert said == MAY_CHANGE[section] - others


def finished(folder, number: int, rounds: list[dict], parts: object = "shared") -> Rounds:
    made = Rounds(folder, parts, rounds)
    made.result(number).mkdir(parents=True)
    made.finish(number, made.result(number))
    return made


def test_a_round_counts_once_it_is_finished(tmp_path):
    rounds = Rounds(tmp_path, "shared", [{"updates": 4}])
    assert not rounds.done(0)
    assert finished(tmp_path, 0, [{"updates": 4}]).done(0)


def test_appending_a_round_keeps_the_earlier_ones(tmp_path):
    finished(tmp_path, 0, [{"updates": 4}])
    longer = Rounds(tmp_path, "shared", [{"updates": 4}, {"updates": 8}])
    assert [longer.done(number) for number in (0, 1)] == [True, False]


def test_changed_earlier_round_or_shared_setting_makes_a_round_count_no_more(tmp_path):
    finished(tmp_path, 1, [{"updates": 4}, {"updates": 8}])
    assert not Rounds(tmp_path, "shared", [{"updates": 5}, {"updates": 8}]).done(1)
    assert not Rounds(tmp_path, "other", [{"updates": 4}, {"updates": 8}]).done(1)
