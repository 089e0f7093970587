"""Image to image in one step (SDEdit, arXiv 2108.01073): noise the image to a middle timestep, then one pass of G."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ufogen.diffusion.networks import Generator
from ufogen.diffusion.schedule import CLEAN, Schedule


def strength_timestep(strength: float, num_timesteps: int = 1000) -> int:
    """The timestep of a strength in 0 ... 1, as in `UFOGen.edit`: 1000 strength - 1. `CLEAN` where nothing is noised."""
    return int(num_timesteps * strength + 1e-9) - 1  # 0.29 * 1000 is 289.999..., which means 290


@torch.no_grad()
def edit_latents(
    generator: Generator, latents: Tensor, noise: Tensor, prompt_embeds: Tensor, schedule: Schedule, strength: float
) -> Tensor:
    """x'_0 = G(x_t, t) of x_t ~ q(x_t | latents): latents and noise (n, c, h, w), token states (n, tokens, width)."""
    t = strength_timestep(strength, schedule.num_timesteps)
    if t == CLEAN:
        return latents
    timesteps = torch.full((len(latents),), t, dtype=torch.int64, device=latents.device)
    return generator(schedule.q(latents, timesteps).sample(noise), timesteps, prompt_embeds)


def mean_squared_error(images: np.ndarray, sources: np.ndarray) -> float:
    """Over pixels and channels of images (n, h, w, 3) uint8, in units of the whole range: 0 is equal, 1 black for white."""
    return float((((images.astype(np.float64) - sources) / 255) ** 2).mean())


def feature_distance(features: Tensor, sources: Tensor) -> float:
    """Mean Euclidean distance of features (n, d) to those of their sources, as a share of that to the next source.

    So 0 is equal, and 1 is as far from the source as another image of the set.
    """
    unrelated = (sources - sources.roll(1, 0)).norm(dim=1).mean()
    return float((features - sources).norm(dim=1).mean() / unrelated)
