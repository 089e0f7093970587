"""Learning rates as functions of the update, so that they carry no state."""

from __future__ import annotations

import math

import torch


def learning_rate(step: int, peak: float, warmup: int, updates: int, decay: str = "cosine") -> float:
    """Linear warm-up to `peak`, then constant or along a half cosine to 0. A function of the step, so it needs no state."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(updates - warmup, 1)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
