"""SIGTERM and Ctrl-C: one line, a checkpoint of the last whole update, and in the end the same bits."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.training.stoppable import LATE, UPDATES
from tests.training.test_loop import RUN, Counter, batches, state, train
from tests.training.test_parallel import result
from ufogen import signals
from ufogen.errors import Stopped
from ufogen.pipelines import stage

ROOT = Path(__file__).parents[2]
LINE = f"stopped at update {LATE} of {UPDATES}; the same command goes on from there"


@pytest.fixture(autouse=True)
def handlers():
    """A program that was stopped takes no further signal; the tests go on."""
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", signals.SIGNALS)
@pytest.mark.parametrize("last", [3, 4], ids=["between checkpoints", "at a checkpoint"])
def test_stopped_run_goes_on_bit_equal_with_its_logged_means(tmp_path, number, last):
    logged = {"whole": [], "parts": []}
    given = {"updates": 6, "log_every": 5}
    changes = {"updates": 6, "warmup": 2}

    def stopping(step: int):
        if step == last:  # fetched ahead, while the update before it goes on
            send(number)
        return tiny.batch(step)

    def log(name: str):
        return lambda step, means: logged[name].append((step, means))

    whole, stopped, resumed = (tiny.task(seed=seed, **changes) for seed in (0, 0, 1))
    train(whole, tmp_path / "whole", tiny.batch, on_log=log("whole"), **given)
    with pytest.raises(Stopped, match=f"^stopped at update {last} of 6; the same command goes on from there$") as end:
        train(stopped, tmp_path / "parts", stopping, on_log=log("parts"), **given)
    assert end.value.number == number
    assert train(resumed, tmp_path / "parts", tiny.batch, on_log=log("parts"), **given) == last
    expected, found = state(whole), state(resumed)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert logged["parts"] == logged["whole"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.bin", "model.safetensors", "run.json"])
def test_run_whose_newest_checkpoint_is_damaged_ends_bit_equal(tmp_path, name, capsys):
    whole, damaged, resumed = (tiny.task(seed=seed, updates=5) for seed in (0, 0, 1))
    train(whole, tmp_path / "whole", tiny.batch)
    train(damaged, tmp_path / "parts", tiny.batch)
    path = tmp_path / "parts/step-0000005" / name
    if path.is_file():
        path.write_bytes(path.read_bytes()[:-1])
    else:
        next((tmp_path / "parts/step-0000005").glob("*.pkl")).unlink()
    assert train(resumed, tmp_path / "parts", tiny.batch) == 4
    assert "step-0000005 is damaged" in capsys.readouterr().err
    expected, found = state(whole), state(resumed)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def test_signal_in_the_hook_ends_it_there_and_the_hook_is_called_again(tmp_path):
    called, ended = [], []

    def hook(step: int) -> None:
        called.append(step)
        if called == [0, 2]:
            send(signal.SIGTERM)
            time.sleep(0.01)
        ended.append(step)

    with pytest.raises(Stopped, match="^stopped at update 2 of 5"):
        train(Counter(), tmp_path, on_checkpoint=hook)
    task = Counter()
    assert train(task, tmp_path, on_checkpoint=hook) == 2
    assert (called, ended, task.steps) == ([0, 2, 2, 4, 5], [0, 2, 4, 5], [2, 3, 4])


def test_within_updates_that_were_left_out_the_last_checkpoint_stands(tmp_path):
    def stopping(step: int):
        if step == 4:
            send(signal.SIGINT)
        return batches(step)

    task = Counter(lambda step: {"loss": 1.0} | ({"skipped": 1.0} if step == 3 else {}))
    with pytest.raises(Stopped, match="^stopped at update 4 of 6; the same command goes on from update 2$"):
        train(task, tmp_path, stopping, **RUN | {"updates": 6})


def test_stage_that_does_not_train_ends_with_a_line_and_leaves_its_output_as_it_was(tmp_path, monkeypatch, capsys):
    target = tmp_path / "out"
    target.mkdir()

    def work(c) -> None:
        with stage.publish(target) as out:
            (out / "half").touch()
            send(signal.SIGTERM)
            time.sleep(0.01)

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(signals.os, "_exit", leave)
    monkeypatch.setattr(sys, "argv", ["stage", "--params", str(ROOT / "params.yaml"), "threads=1"])
    with pytest.raises(SystemExit) as end:
        stage.run(work)
    assert end.value.code == 143
    assert capsys.readouterr().err == "stopped; run the same command again\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not list(target.iterdir())


def start(folder: Path, processes: int) -> subprocess.Popen:
    launcher = ["-m", "ufogen.launch", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.training.stoppable", "--params", str(ROOT / "params.yaml")]
    environment = os.environ | {"FOLDER": str(folder), "PYTHONPATH": str(ROOT / "src"), "GLOO_SOCKET_IFNAME": "lo"}
    given = {"cwd": ROOT, "env": environment, "text": True}
    return subprocess.Popen([*command, "device=cpu", "threads=1"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, **given)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_command_that_is_stopped_says_a_line_and_the_same_command_ends_bit_equal(tmp_path, processes, number):
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    first = start(tmp_path / "straight", processes)
    assert first.wait() == 0, first.stderr.read()
    (tmp_path / "stopped/late").touch()
    second = start(tmp_path / "stopped", processes)
    while second.poll() is None and len(list((tmp_path / "stopped").glob("waiting-*"))) < processes:
        time.sleep(0.05)
    began = time.monotonic()
    second.send_signal(number)
    said = second.communicate()[1]
    assert time.monotonic() - began < 10
    assert second.returncode == 128 + number, said
    assert said.splitlines()[-1] == LINE and said.count("stopped") == 1 and "Traceback" not in said
    (tmp_path / "stopped/late").unlink()
    third = start(tmp_path / "stopped", processes)
    assert third.wait() == 0, third.stderr.read()
    straight, resumed = (result(tmp_path, name) for name in ("straight", "stopped"))
    assert torch.equal(resumed["weights"], straight["weights"])
    count = len(resumed["losses"])  # not equally many in each update: penalties are at intervals
    assert 0 < count < len(straight["losses"]) and torch.equal(resumed["losses"], straight["losses"][-count:])


@pytest.mark.slow
def test_stage_that_is_stopped_while_it_imports_says_a_line(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "ufogen.pipelines.main.sample"]
    stopped = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, stderr=subprocess.PIPE, text=True
    )
    for line in stopped.stderr:
        if re.search(r"\| +numpy$", line):
            stopped.send_signal(signal.SIGINT)
            break
    said = [line for line in stopped.stderr.read().splitlines() if not line.startswith("import time:")]
    assert (stopped.wait(), said) == (130, [signals.AGAIN])
