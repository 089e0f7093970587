"""The training loop. It knows no objective by name: a task prepares itself and makes one update at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env
from torch import Tensor
from tqdm import tqdm

from ufogen import signals
from ufogen.errors import Stopped, UserError
from ufogen.precision import resolve_precision
from ufogen.randomness import Draws, torch_generator
from ufogen.training.checkpoint import Checkpoint
from ufogen.training.log import Means
from ufogen.training.stopping import Agreement

Batch = Any


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
    on_checkpoint: called on all processes at the start, after each regular checkpoint, and where a run goes on from one.

    Raises
    ------
    UserError: steps were left out in `log.IN_A_ROW` updates or in all that there are, a logged scalar is no longer finite, or
        `folder` has a checkpoint of another run.
    Stopped: a signal came. The state is saved as soon as the update is done.
    """
    task.prepare(accelerator)
    checkpoint = Checkpoint(folder, accelerator, run)
    start = saved = done = checkpoint.load()
    means, agreement = Means(checkpoint.notes, updates), Agreement(accelerator)
    pool = ThreadPoolExecutor(1)

    def message() -> str:
        place = "there" if done == saved else f"update {saved}"
        return f"stopped at update {done} of {updates}; the same command goes on from {place}"

    def save() -> None:
        nonlocal saved
        checkpoint.save(done, means.state())
        saved = done

    def call_hook(came: list[int]) -> None:
        if came:
            raise Stopped(came[0], message())
        if on_checkpoint and (done % checkpoint_every == 0 or done == updates):
            with signals.raised(message()):
                on_checkpoint(done)

    with signals.noted() as came, tqdm(
        total=updates, initial=start, desc=description, disable=not accelerator.is_local_main_process, mininterval=5
    ) as progress:  # fmt: skip
        call_hook(came)
        ahead = pool.submit(batches, done) if done < updates else None
        while done < updates:
            if number := agreement.stops(came, ahead):
                if done != saved and not means.in_a_row:
                    save()
                raise Stopped(number, message())
            batch, step = ahead.result(), done
            ahead = pool.submit(batches, step + 1) if step + 1 < updates else None
            generator = torch_generator(accelerator.device, seed, description, step)
            scalars = task.update(batch, step, Draws(generator, accelerator.process_index, accelerator.num_processes))
            progress.update()
            done = step + 1
            means.add(scalars, done)
            if done % log_every == 0 or done == updates:
                found = means.take(done)
                progress.set_postfix({name: f"{value:.3g}" for name, value in found.items()}, refresh=False)
                if on_log and accelerator.is_main_process:
                    on_log(done, found)
            # within a row of updates that are left out the weights may be what is wrong
            if done == updates or (done % checkpoint_every == 0 and not means.in_a_row):
                save()
                call_hook(came)
    return start
