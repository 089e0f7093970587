"""Two processes that are killed in the midst of an update go on where their checkpoint was and end as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from tests.processes import launch
from tests.training import test_parallel
from tests.training.test_parallel import result, train

UPDATES = 8


def train_to_the_end(folder: Path, changes: dict) -> None:
    train(folder, UPDATES, **changes)


def train_until_killed(folder: Path, update: int, changes: dict) -> None:
    share = test_parallel.share

    def deadly(step: int, rank: int, processes: int):
        if step == update and rank == 1:  # fetched ahead, while the update before it goes on
            os.kill(os.getpid(), signal.SIGKILL)
        return share(step, rank, processes)

    test_parallel.share = deadly
    train(folder, UPDATES, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"sharding": "full"}, {"accumulation": 2}], ids=["ddp", "full", "accumulation"])
def test_killed_at_a_random_update_it_ends_bit_equal(tmp_path, changes):
    for name in ("straight", "resumed"):
        (tmp_path / name).mkdir()
    update = random.SystemRandom().randrange(3, UPDATES)
    launch(train_to_the_end, tmp_path / "straight", changes)
    with pytest.raises(ProcessExitedException):
        launch(train_until_killed, tmp_path / "resumed", update, changes)
    assert not (tmp_path / "resumed/result.pt").exists()
    launch(train_to_the_end, tmp_path / "resumed", changes)
    straight, resumed = result(tmp_path, "straight"), result(tmp_path, "resumed")
    assert 0 < len(resumed["losses"]) < len(straight["losses"]), f"killed at update {update}: nothing was taken up"
    assert torch.equal(resumed["losses"], straight["losses"][-len(resumed["losses"]) :]), f"killed at update {update}"
    assert torch.equal(resumed["weights"], straight["weights"]), f"killed at update {update}"
