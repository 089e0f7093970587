"""Samplers: UFOGen in one step or several, and the base's own solvers for comparison. No method here trains."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from ufogen.diffusion.networks import added_conditioning
from ufogen.diffusion.objective import denoising_step
from ufogen.diffusion.schedule import CLEAN, Schedule
from ufogen.errors import UserError

SOLVERS = ("ddim", "dpm++")


def step_timesteps(steps: int, num_timesteps: int = 1000) -> list[int]:
    """The timesteps of n-step sampling, equally far apart, from the last one down: 4 steps are 999, 749, 499, 249.

    These are the timesteps of diffusers' LCMScheduler. Raises `UserError` for an impossible number of steps.
    """
    if not 1 <= steps <= num_timesteps:
        raise UserError(f"the number of sampling steps is {steps}; allowed: 1 ... {num_timesteps}")
    return [num_timesteps - 1 - i for i in np.floor(np.linspace(0, num_timesteps, steps, endpoint=False)).astype(int).tolist()]


@torch.no_grad()
def sample_generator(
    generator: nn.Module,
    noise: Tensor,
    prompt_embeds: Tensor,
    schedule: Schedule,
    steps: int = 1,
    rng: torch.Generator | None = None,
    parameterization: str = "forward",
    pooled_prompt_embeds: Tensor | None = None,
    timesteps: Sequence[int] | None = None,
) -> Tensor:
    """x_0 from x_T = `noise` (n, c, h, w) and token states (n, tokens, width), for SDXL also pooled states (n, p).

    One step returns G(x_T, T). With more, x_s of the next timestep is drawn with fresh noise from `rng` as the method was
    trained: q(x_s|x'_0) for `forward` (UFOGen), q(x_s|x_t, x'_0) for `posterior` (DDGAN, SIDDM).
    No guidance: each step is one pass. `timesteps` are others than those of `step_timesteps`, in falling order.
    """
    caption = {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds}
    x_t, dtype = noise, torch.promote_types(noise.dtype, torch.float32)
    at = step_timesteps(steps, schedule.num_timesteps) if timesteps is None else timesteps
    for t, s in pairwise([*at, CLEAN]):
        fresh = torch.zeros_like(noise)
        if s != CLEAN:
            fresh = torch.randn(noise.shape, generator=rng, device=noise.device, dtype=dtype)
        t, s = _full(t, noise), _full(s, noise)
        x_0, x_t = denoising_step(generator, x_t, t, s, fresh, schedule, parameterization, **caption)
    return x_0


@torch.no_grad()
def sample_base(
    unet: nn.Module,
    noise: Tensor,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor,
    scheduler_config: FrozenDict | dict,
    steps: int,
    guidance: float = 1.0,
    solver: str = "ddim",
    pooled_prompt_embeds: Tensor | None = None,
    negative_pooled_prompt_embeds: Tensor | None = None,
) -> Tensor:
    """x_0 from the base by DDIM or DPM-Solver++ (2M) with classifier-free guidance.

    noise (n, c, h, w); prompt_embeds (n, tokens, width); negative_prompt_embeds (tokens, width) of the empty prompt; for SDXL
    also pooled_prompt_embeds (n, p) and negative_pooled_prompt_embeds (1, p). The network may be in half precision; the
    solver's own steps are float32.
    With guidance above 1 each step is two passes, made as one batch; at 1 a single pass.
    """
    if solver not in SOLVERS:
        raise UserError(f"solver {solver!r} is unknown; allowed: {', '.join(SOLVERS)}")
    kind = DDIMScheduler if solver == "ddim" else DPMSolverMultistepScheduler
    extra = {"set_alpha_to_one": True} if solver == "ddim" else {}
    scheduler = kind.from_config(scheduler_config, timestep_spacing="trailing", **extra)
    scheduler.set_timesteps(steps, device=noise.device)
    guided = guidance > 1
    if guided:
        prompt_embeds = torch.cat([negative_prompt_embeds.expand_as(prompt_embeds), prompt_embeds])
        if pooled_prompt_embeds is not None:
            pooled_prompt_embeds = torch.cat(
                [negative_pooled_prompt_embeds.expand_as(pooled_prompt_embeds), pooled_prompt_embeds]
            )
    prompt_embeds = prompt_embeds.to(unet.dtype)
    if pooled_prompt_embeds is not None:
        pooled_prompt_embeds = pooled_prompt_embeds.to(unet.dtype)
    x_t = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(torch.cat([x_t, x_t]) if guided else x_t, t).to(unet.dtype)
        further = added_conditioning(model_input, pooled_prompt_embeds)
        output = unet(model_input, t, encoder_hidden_states=prompt_embeds, return_dict=False, **further)[0].float()
        if guided:
            unconditional, conditional = output.chunk(2)
            output = unconditional + guidance * (conditional - unconditional)
        x_t = scheduler.step(output, t, x_t, return_dict=False)[0]
    return x_t


def _full(t: int, like: Tensor) -> Tensor:
    return torch.full((len(like),), t, dtype=torch.int64, device=like.device)
