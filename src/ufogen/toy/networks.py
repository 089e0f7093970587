"""Small MLPs of every seed at once: one batched matrix product trains them all.

To the objective the seeds' items are one batch: item i of seed j stands at i * seeds + j, so that a part or a multiple of a
batch has all seeds too. Inside, the seed is the leading dimension.

Adam works element by element, so Adam on the batched weights is Adam for each seed alone, as long as the loss is the
sum of the seeds' losses.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ufogen.randomness import torch_generator
from ufogen.toy.settings import TIMESTEPS

TIME_FEATURES = 16


class BatchedMLP(nn.Module):
    """Linear layers with SiLU between them; weights (seeds, in, out), initialised as nn.Linear is, each seed by itself."""

    def __init__(self, seeds: list[int], sizes: list[int], purpose: str):
        super().__init__()
        weights, biases = [], []
        generators = [torch_generator("cpu", seed, purpose) for seed in seeds]
        for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
            bound = 1 / math.sqrt(n_in)
            values = torch.stack([torch.rand(n_in + 1, n_out, generator=g) for g in generators]) * 2 * bound - bound
            weights.append(nn.Parameter(values[:, :-1].contiguous()))
            biases.append(nn.Parameter(values[:, -1:].contiguous()))
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    def forward(self, x: Tensor) -> Tensor:
        """x (seeds, b, in) -> (seeds, b, out)."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, F.silu(x) if i else x, weight)
        return x


class Generator(nn.Module):
    """G(x_t, t, z) -> x'_0: three hidden layers and, as in the toy of SIDDM, a linear path around them."""

    def __init__(self, seeds: list[int], width: int, latent: int, frequencies: int):
        super().__init__()
        inputs = 2 * (1 + 2 * frequencies) + TIME_FEATURES + latent
        self.body = BatchedMLP(seeds, [inputs, width, width, width, 2], "laboratory generator")
        self.skip = BatchedMLP(seeds, [2, 2], "laboratory skip")
        self.seeds, self.frequencies = len(seeds), frequencies

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x_t (b seeds, 2), t (b seeds,) int64, z (b seeds, latent) -> (b seeds, 2)."""
        x_t, t, z = (by_seed(x, self.seeds) for x in (x_t, t, z))
        features = [fourier(x_t, self.frequencies), time_features(t), z]
        return as_items(self.body(torch.cat(features, dim=2)) + self.skip(x_t))


class Discriminator(nn.Module):
    """D(x_s, s) or D(x_s, x_t, s) -> logits (b seeds, 1): four hidden layers."""

    def __init__(self, seeds: list[int], width: int, joint: bool, frequencies: int):
        super().__init__()
        inputs = (1 + joint) * 2 * (1 + 2 * frequencies) + TIME_FEATURES
        self.body = BatchedMLP(seeds, [inputs, width, width, width, width, 1], "laboratory discriminator")
        self.seeds, self.joint, self.frequencies = len(seeds), joint, frequencies

    def forward(self, x_s: Tensor, s: Tensor, x_t: Tensor) -> Tensor:
        """x_s, x_t (b seeds, 2), s (b seeds,) int64; the marginal discriminator does not see x_t."""
        positions = by_seed(torch.cat([x_s, x_t], dim=1) if self.joint else x_s, self.seeds)
        features = [fourier(positions, self.frequencies), time_features(by_seed(s, self.seeds))]
        return as_items(self.body(torch.cat(features, dim=2)))


def by_seed(items: Tensor, seeds: int) -> Tensor:
    """(b seeds, ...) -> (seeds, b, ...). Selected and not transposed, so that gradients too lie in memory seed by seed."""
    order = torch.arange(len(items)).view(-1, seeds).T.flatten()
    return items.index_select(0, order).unflatten(0, (seeds, -1))


def as_items(x: Tensor) -> Tensor:
    """(seeds, b, ...) -> (b seeds, ...)."""
    order = torch.arange(x.shape[0] * x.shape[1]).view(x.shape[0], -1).T.flatten()
    return x.flatten(0, 1).index_select(0, order)


def fourier(x: Tensor, frequencies: int) -> Tensor:
    """x (..., c) with sin and cos of pi x, 2 pi x, 4 pi x ...: (..., c (1 + 2 frequencies))."""
    waves = [x * (math.pi * 2**i) for i in range(frequencies)]
    return torch.cat([x, *(wave.sin() for wave in waves), *(wave.cos() for wave in waves)], dim=-1)


def time_features(t: Tensor) -> Tensor:
    """sin and cos of t / 1000 in half octaves (..., 16), for integer timesteps -1 ... 999; -1 is clean data."""
    rates = math.pi / 2 * 2 ** (torch.arange(TIME_FEATURES // 2) / 2)
    phase = (t + 1).to(torch.float32)[..., None] / TIMESTEPS * rates
    return torch.cat([phase.sin(), phase.cos()], dim=-1)
