"""Time to generate one image."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from ufogen.errors import UserError


def seconds_per_image(generate: Callable[[int], object], batch_size: int, repeats: int, warmup: int) -> dict[str, float]:
    """Wall-clock seconds an image of `generate(batch_size)`, waiting for the GPU where one is in use.

    Parameters
    ----------
    generate: makes as many images as it is told; its result is dropped.
    repeats, warmup: calls that are timed, after calls that are not (compilation, memory, clocks).

    Returns
    -------
    median, min: over the timed calls, seconds divided by `batch_size`.
    n: number of timed calls.

    Raises
    ------
    UserError: `batch_size` or `repeats` below 1, or `warmup` below 0.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("repeats", repeats, 1), ("warmup", warmup, 0)):
        if value < least:
            raise UserError(f"{name}: must be at least {least}, got {value}")
    for _ in range(warmup):
        generate(batch_size)
    seconds = []
    for _ in range(repeats):
        _synchronize()
        start = time.perf_counter()
        generate(batch_size)
        _synchronize()
        seconds.append((time.perf_counter() - start) / batch_size)
    return {"median": float(np.median(seconds)), "min": min(seconds), "n": repeats}


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
