"""The training loop. It knows no objective by name: a task prepares itself and makes one update at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env
from torch import Tensor
from tqdm import tqdm

from ufogen.errors import UserError
from ufogen.precision import resolve_precision
from ufogen.randomness import Draws, torch_generator
from ufogen.training.checkpoint import Checkpoint
from ufogen.training.optimizers import SKIPPED

Batch = Any
IN_A_ROW = 25  # updates whose steps may be left out; the scale of fp16 needs some of them until it has found itself


class Task(Protocol):
    """What the loop trains."""

    def prepare(self, accelerator: Accelerator) -> None:
        """Hand networks, optimizers and averages to accelerate."""

    def update(self, batch: Batch, step: int, draws: Draws) -> dict[str, Tensor]:
        """One update of every network from one batch; scalars to log, still on the device.

        Among them `optimizers.SKIPPED` where a gradient was not finite and the step was left out.
        """


def make_accelerator(device: str, precision: str) -> Accelerator:
    """An Accelerator on the device asked for.

    A precision `auto` is resolved for it.
    Raises `UserError` where the device is not there, and for an engine that cannot train two networks.
    """
    for engine in ("FSDP", "DeepSpeed", "Megatron_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{engine.upper()}"):
            raise UserError(
                f"{engine} does not train two networks here: use experiments/accelerate/ddp.yaml and trainer.sharding"
            )
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("parameter device is cuda, but torch sees no GPU: use device=auto or device=cpu")
    precision = resolve_precision(precision, device)
    if precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise UserError("precision fp16 needs a GPU: use bf16 or no")
    # said outright where there is no GPU: accelerate sets up several processes on the CPU only then
    cpu = device == "cpu" or not torch.cuda.is_available()
    # said outright too, because accelerate would take them from the environment and train other weights without a word
    accumulation = GradientAccumulationPlugin(num_steps=1)
    return Accelerator(cpu=cpu, mixed_precision=precision, gradient_accumulation_plugin=accumulation, dynamo_backend="no")


def fit(
    task: Task,
    batches: Callable[[int], Batch],
    accelerator: Accelerator,
    *,
    updates: int,
    seed: int,
    folder: str | Path,
    run: str,
    checkpoint_every: int,
    log_every: int,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    on_checkpoint: Callable[[int], None] | None = None,
    description: str = "training",
) -> int:
    """Train `task` for `updates` updates, continuing a stopped run, and return the update it continued from.

    Parameters
    ----------
    batches: the batch of update `step`, a pure function of its argument; fetched one ahead in a thread.
    folder, run: where checkpoints go and which run they belong to (see `checkpoint.fingerprint`).
    on_log: called with the means of each logged scalar over the last `log_every` updates. Those of which a step was left out
        count in no mean, but in their number `skipped`, where there are any.
    on_checkpoint: called just before each checkpoint and once at the start, on all processes.

    Raises
    ------
    UserError: steps were left out in `IN_A_ROW` updates or in all that there are, a logged scalar is no longer finite, or
        `folder` has a checkpoint of another run.
    """
    task.prepare(accelerator)
    checkpoint = Checkpoint(folder, accelerator, run)
    start = checkpoint.load()
    if on_checkpoint and start == 0:
        on_checkpoint(0)
    progress = tqdm(
        total=updates, initial=start, desc=description, disable=not accelerator.is_local_main_process, mininterval=5
    )
    totals: dict[str, Tensor] = {}
    left_out = in_a_row = 0
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batches, start) if start < updates else None
        for step in range(start, updates):
            batch = ahead.result()
            ahead = pool.submit(batches, step + 1) if step + 1 < updates else None
            generator = torch_generator(accelerator.device, seed, description, step)
            scalars = task.update(batch, step, Draws(generator, accelerator.process_index, accelerator.num_processes))
            progress.update()
            done = step + 1
            if scalars.pop(SKIPPED, None) is not None:
                left_out, in_a_row = left_out + 1, in_a_row + 1
                if in_a_row == min(IN_A_ROW, updates):
                    found = {name: float(value) for name, value in scalars.items()} | {"gradients": math.nan}
                    _check_finite(found, done, f" in {in_a_row} updates in a row, which were left out")
            else:
                in_a_row = 0
                for name, value in scalars.items():
                    total, count = totals.get(name, (0.0, 0))
                    totals[name] = (total + value.detach().float(), count + 1)
            if done % log_every == 0 or done == updates:
                means = {name: float(total) / count for name, (total, count) in totals.items()}
                means |= {SKIPPED: left_out} if left_out else {}
                totals, left_out = {}, 0
                _check_finite(means, done)
                progress.set_postfix({name: f"{value:.3g}" for name, value in means.items()}, refresh=False)
                if on_log and accelerator.is_main_process:
                    on_log(done, means)
            # within a row of updates that are left out the weights may be what is wrong
            if done == updates or (done % checkpoint_every == 0 and not in_a_row):
                if on_checkpoint:
                    on_checkpoint(done)
                checkpoint.save(done)
    progress.close()
    return start


def _check_finite(means: dict[str, float], step: int, when: str = "") -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"training diverged at update {step}: {', '.join(broken)} not finite{when}; "
            "lower the learning rates or raise r1_weight"
        )
