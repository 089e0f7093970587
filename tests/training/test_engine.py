"""How an update is divided, over processes and micro-batches, decides its cost alone: losses and weights stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from tests import tiny
from tests.processes import launch
from tests.settings import make_objective
from ufogen import config
from ufogen.diffusion.batch import EncodedBatch
from ufogen.randomness import Draws, torch_generator
from ufogen.training.loop import make_accelerator

GLOBAL_BATCH, UPDATES = 4, 20
OBJECTIVE = make_objective(
    timesteps="uniform", minimum_timestep=650, step_size=750, entry_share=0.5, r1_weight=0.2, r1_interval=4
)


def share(step: int, rank: int, processes: int) -> EncodedBatch:
    whole, n = tiny.batch(step, GLOBAL_BATCH), GLOBAL_BATCH // processes
    return EncodedBatch(*(x[rank * n : (rank + 1) * n] for x in (whole.latents, whole.prompt_embeds)))


def run(
    path, updates: int = UPDATES, objective: config.Objective = OBJECTIVE, lora: tuple[int, int] = (0, 0), **changes
) -> None:
    """Train on this process's share; save the losses and weights."""
    accelerator = make_accelerator("cpu", "no")
    task = tiny.task(objective, **{"warmup": 2, "generator_warmup": 2} | changes, lora=lora)
    task.prepare(accelerator)
    rank, processes = accelerator.process_index, accelerator.num_processes
    means = []
    for step in range(updates):
        draws = Draws(torch_generator("cpu", 0, "test", step), rank, processes)
        scalars = task.update(share(step, rank, processes), step, draws)
        names = [name for name in sorted(scalars) if name != "std_last"]  # not a mean over items
        means.append(accelerator.reduce(torch.stack([scalars[name] for name in names]), "mean"))
    if accelerator.is_main_process:
        weights = [tiny.flat(network) for network in (task.generator, task.discriminator)]
        average = torch.cat([x.flatten() for x in task.ema.shadow_params])
        torch.save({"processes": processes, "losses": torch.cat(means), "weights": torch.cat([*weights, average])}, path)


def result(tmp_path, processes: int = 1, **changes) -> dict:
    path = tmp_path / "result.pt"
    if processes == 1:
        run(path, **changes)
    else:
        launch(_launched, path, changes, processes=processes)
    found = torch.load(path)
    assert found["processes"] == processes
    return found


def _launched(path, changes: dict) -> None:
    run(path, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    """One process, one batch."""
    return result(tmp_path_factory.mktemp("whole"))


def assert_agree(found: dict, expected: dict) -> None:
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=2e-3, atol=2e-4)
    start = torch.cat([tiny.flat(network) for network in (tiny.task().generator, tiny.task().discriminator)])
    moved = (expected["weights"][: len(start)] - start).norm()
    assert (found["weights"] - expected["weights"]).norm() < 2e-3 * moved


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 4), (2, 1), (2, 2)])
def test_division_of_the_batch_changes_nothing(tmp_path, whole, processes, accumulation):
    assert_agree(result(tmp_path, processes, accumulation=accumulation), whole)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"ema_device": "cpu"}], ids=lambda c: next(iter(c)))
def test_saving_memory_changes_nothing(tmp_path, changes):
    plain, saving = (result(tmp_path, updates=5, **c) for c in ({}, changes))
    torch.testing.assert_close(saving["losses"], plain["losses"])
    torch.testing.assert_close(saving["weights"], plain["weights"])


@pytest.mark.parametrize(("name", "engine"), [("one_gpu", "NO"), ("ddp", "MULTI_GPU")])
def test_launch_configurations_are_those_of_accelerate(name, engine):
    found = load_config_from_file(str(Path(__file__).parents[2] / "experiments" / "accelerate" / f"{name}.yaml"))
    assert (found.distributed_type, found.use_cpu) == (engine, False)
