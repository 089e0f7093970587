"""The optimizers that a network can be trained with, and their step, which is left out where a gradient is not finite."""

from __future__ import annotations

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from ufogen import config
from ufogen.errors import UserError

SKIPPED = "skipped"


def make_optimizer(
    parameters: list[torch.nn.Parameter], learning_rate: float, trainer: config.Trainer
) -> torch.optim.Optimizer:
    """Adam over a network's trainable weights, fused or with a state of 8 bits.

    Raises `UserError` where the package for 8 bits is absent.
    """
    settings = {"lr": learning_rate, "betas": (trainer.beta1, trainer.beta2)}
    if trainer.optimizer == "adam":
        return torch.optim.Adam(parameters, fused=True, **settings)
    try:
        from bitsandbytes.optim import Adam8bit
    except ImportError as error:
        raise UserError(
            "parameter trainer.optimizer is adam8bit, whose package is missing: pip install bitsandbytes; or use adam"
        ) from error
    return Adam8bit(parameters, **settings)


def step_where_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> bool:
    """Step unless the gradient, whose norm over all processes is given, is not finite; whether it was done."""
    # fp16 has a scaler, which looks for itself, and lowers its scale; a sharded network's optimizer is none of accelerate's
    if isinstance(optimizer, AcceleratedOptimizer) and optimizer.scaler is not None:
        optimizer.step()
        return not optimizer.step_was_skipped
    if finite := bool(norm.isfinite()):
        optimizer.step()
    return finite


def skipped(*done: bool) -> dict[str, Tensor]:
    """What an update adds to its scalars: the loop counts updates of which a step was left out."""
    return {} if all(done) else {SKIPPED: torch.ones(())}
