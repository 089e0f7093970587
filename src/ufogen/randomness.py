"""Every random draw is keyed by what it is for, so that a resumed or a divided run draws the same numbers."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def numpy_generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator that depends on the seed, the purpose's name and further integers alone."""
    return np.random.default_rng(_sequence(seed, purpose, key))


def torch_generator(device: torch.device | str, seed: int, purpose: str, *key: int) -> torch.Generator:
    """The same for torch, on `device`."""
    state = int(_sequence(seed, purpose, key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state)


def _sequence(seed: int, purpose: str, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *key])


class Draws:
    """The random numbers of one update: drawn for the global batch, of which this process takes its share.

    A run on several processes therefore draws what a run on one process draws for the same global batch.
    """

    def __init__(self, generator: torch.Generator, rank: int = 0, world_size: int = 1):
        self.generator, self.rank, self.world_size = generator, rank, world_size

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers (b, ...) of the shape of `like`, float32."""
        shape = (len(like) * self.world_size, *like.shape[1:])
        return self._share(torch.randn(shape, generator=self.generator, device=self.generator.device), len(like))

    def integers(self, low: int, high: int, n: int) -> Tensor:
        """Integers (n,) uniform in low ... high - 1, int64."""
        shape = (n * self.world_size,)
        return self._share(torch.randint(low, high, shape, generator=self.generator, device=self.generator.device), n)

    def uniform(self, n: int) -> Tensor:
        """Numbers (n,) uniform in [0, 1)."""
        return self._share(torch.rand(n * self.world_size, generator=self.generator, device=self.generator.device), n)

    def _share(self, whole: Tensor, n: int) -> Tensor:
        return whole[self.rank * n : (self.rank + 1) * n]
