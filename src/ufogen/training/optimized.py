"""A network with its optimizer and, where it is asked for, the average of its weights: what every task trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor

from ufogen import config
from ufogen.training.learning_rate import learning_rate, set_learning_rate
from ufogen.training.optimizers import make_optimizer, skipped, step_where_finite
from ufogen.training.parallel import Network, Parallel, make_parallel

T = TypeVar("T")


class Optimized:
    """Made in a task's `prepare`, from where on accelerate's checkpoints keep all of its state.

    Raises `UserError` for settings that do not go with trainer.sharding.

    Attributes
    ----------
    passes: the network behind `training.parallel`.
    ema: the average of its trained weights, None without `averaged`.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        peak: float,
        warmup: int,
        accelerator: Accelerator,
        settings: config.Trainer,
        averaged: bool = False,
    ):
        """`peak` is the learning rate after `warmup` updates."""
        self.accelerator, self.settings, self.peak, self.warmup = accelerator, settings, peak, warmup
        self.passes = make_parallel(network, accelerator, settings)
        self.ema = EMAModel(self.passes.trained, decay=settings.ema_decay, foreach=True) if averaged else None
        optimizer = make_optimizer(self.passes.trained, peak, settings)
        self.optimizer = self.passes.prepare(name, optimizer, **({"ema": self.ema} if averaged else {}))
        if averaged:
            self.ema.to(self._ema_device)

    def begin(self, step: int, updates: int) -> None:
        """Set the learning rate of update `step` of a schedule of `updates`, and forget the gradients."""
        s = self.settings
        set_learning_rate(self.optimizer, learning_rate(step, self.peak, self.warmup, updates, s.decay))
        self.optimizer.zero_grad()

    def step(self) -> dict[str, Tensor]:
        """Clip the gradients, step, and let the average follow; where a gradient is not finite, none of it.

        Returns what the update's scalars are to say of that.
        """
        done = step_where_finite(self.optimizer, self.passes.take_gradients(self.settings.gradient_clip))
        if done and self.ema is not None:
            self.ema.to(self.accelerator.device)  # accelerate loads it on the CPU
            self.ema.step(self.passes.trained)
            self.ema.to(self._ema_device)
        return skipped(done)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Network | None]:
        """The network, which within the context has the averaged weights.

        Sharded, it is a whole copy on the main process and None on the others, and all processes must enter.
        """
        self.ema.store(self.passes.trained)
        self.ema.copy_to(self.passes.trained)
        try:
            with self.passes.whole() as network:
                yield network
        finally:
            self.ema.restore(self.passes.trained)

    @property
    def _ema_device(self) -> torch.device | str:
        return "cpu" if self.settings.ema_device == "cpu" else self.accelerator.device


def micro_batches(parts: list[T], network: Parallel) -> Iterator[T]:
    """The parts one after another; processes exchange the gradients of `network` at the last one alone."""
    for part in parts[:-1]:
        with network.more_to_come():
            yield part
    yield parts[-1]


def means(scalars: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each scalar over micro-batches of one size."""
    return {name: sum(part[name] for part in scalars) / len(scalars) for name in scalars[0]}
