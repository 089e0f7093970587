"""The optimizers that a network can be trained with."""

from __future__ import annotations

import torch

from ufogen import config
from ufogen.errors import UserError


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
            "parameter trainer.optimizer is adam8bit, which needs the package bitsandbytes: install it or use adam"
        ) from error
    return Adam8bit(parameters, **settings)
