"""What methods ask of a teacher: guidance, and steps along the ODE that it defines."""

from __future__ import annotations

import torch
from torch import Tensor

from ufogen.diffusion.objective import Network
from ufogen.diffusion.schedule import Schedule


def guided(teacher: Network, empty: dict[str, Tensor], scale: float) -> Network:
    """The teacher with classifier-free guidance, x'_0(empty) + scale (x'_0(c) - x'_0(empty)), both passes as one batch.

    x'_0 is affine in a network's output, whatever that predicts, so this is the guidance of `sampling.sample_base`; a scale
    of at most 1 is one pass without it, as there. `empty` is the caption of the empty prompt, (...) or (1, ...) each. The
    papers on latent consistency models write w for scale - 1.
    """
    if scale <= 1:
        return teacher

    def denoise(x_t: Tensor, t: Tensor, **caption: Tensor) -> Tensor:
        both = {name: torch.cat([empty[name].expand_as(value), value]) for name, value in caption.items()}
        without, towards = teacher(torch.cat([x_t, x_t]), torch.cat([t, t]), **both).chunk(2)
        return without + scale * (towards - without)

    return denoise


def ddim_step(x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, schedule: Schedule) -> Tensor:
    """x_s on the line from x_t to x'_0 = `x_0`: sqrt(abar_s) x'_0 + sqrt(1 - abar_s) eps' (DDIM, Song et al. 2021, eq. 12).

    eps' is the noise that x'_0 leaves of x_t, so no randomness is added. x_0, x_t (b, c, h, w); t, s (b,), s = -1 is clean.
    """
    alpha_bar_s, alpha_bar_t = schedule.alpha_bar(s, like=x_t), schedule.alpha_bar(t, like=x_t)
    noise = (x_t - alpha_bar_t.sqrt() * x_0) / (1 - alpha_bar_t).sqrt()
    return alpha_bar_s.sqrt() * x_0 + (1 - alpha_bar_s).sqrt() * noise
