"""Latent consistency distillation (LCM, Luo et al. 2023, arXiv 2310.04378, algorithm 1).

f(x_t, t) = c_skip(t) x_t + c_out(t) x'_0 shall be the same along the ODE of the guided teacher:

    x_t ~ q(x_t|x_0), t of the solver's grid T - 1, T - 1 - k, ...
    x_s = one DDIM step of the guided teacher from t to s = t - k           skipping step, section 4.3
    min d( f(x_t, t), f^-(x_s, s) )                                         f^-: the average of f

Ours, for `tuning`: a share of the items is pure noise at the largest t, where G is entered. Without it all is as in the paper.

The guidance is the comparison's one scale and no input of the network; the paper draws it for each item and embeds it.
Sampling is diffusers' LCMScheduler: its timesteps are of the solver's grid, and its steps are, with f for G, those that
UFOGen takes (`sampling.sample_generator`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import LCMScheduler
from torch import Tensor

from ufogen import config
from ufogen.diffusion.objective import Loss, Network
from ufogen.diffusion.schedule import Schedule
from ufogen.distillation.boundary import consistency_function
from ufogen.distillation.method import Method, Networks
from ufogen.distillation.teacher import ddim_step
from ufogen.errors import UserError
from ufogen.randomness import Draws


@dataclass
class Items:
    x_t: Tensor  # (b, c, h, w)
    t: Tensor  # (b,)
    s: Tensor  # (b,), max(t - k, 0) as in diffusers' script
    caption: dict[str, Tensor]


def pseudo_huber(difference: Tensor, c: float) -> Tensor:
    """sqrt(d^2 + c^2) - c of every element, averaged: the loss `huber` of diffusers' LCM script."""
    return ((difference.square() + c**2).sqrt() - c).mean()


class Consistency(Method):
    averaged_target = True
    teacher_passes = 1
    student_passes = 1  # the target's

    def __init__(self, schedule: Schedule, settings: config.Consistency, prediction_type: str):
        super().__init__(schedule, settings, prediction_type)
        k, last = settings.skipping_step, schedule.num_timesteps
        if last % k and (last - 1) % k:
            raise UserError(f"parameter skipping_step is {k}; allowed: divisors of {last} or of {last - 1}")

    def draw(self, x_0: Tensor, caption: dict[str, Tensor], draws: Draws, phase: int) -> Items:
        k, last = self.settings.skipping_step, self.schedule.num_timesteps - 1
        t = last - k * draws.integers(0, (last + 1) // k, len(x_0))
        noise = draws.normal(x_0)
        if not self.settings.entry_share:
            return Items(self.schedule.q(x_0, t).sample(noise), t, (t - k).clamp(min=0), caption)
        t = torch.where(draws.uniform(len(x_0)) < self.settings.entry_share, last, t)
        pure = (t == last).reshape(-1, *[1] * (x_0.ndim - 1))
        x_t = torch.where(pure, noise, self.schedule.q(x_0, t).sample(noise))
        return Items(x_t, t, (t - k).clamp(min=0), caption)

    def denoiser(self, network: Network) -> Network:
        return consistency_function(network)

    def student_loss(self, networks: Networks, items: Items, x_0_fake: Tensor) -> Loss:
        """d(f(x_t, t), f^-(x_s, s))."""
        with torch.no_grad():
            x_s = ddim_step(networks.teacher(items.x_t, items.t, **items.caption), items.x_t, items.t, items.s, self.schedule)
            target = self.denoiser(networks.target)(x_s, items.s, **items.caption)
        loss = pseudo_huber(x_0_fake - target, self.settings.huber_c)
        return loss, {"loss": loss.detach()}

    def timesteps(self, steps: int) -> list[int]:
        """Those of diffusers' LCMScheduler: 4 steps are 999, 759, 499, 259 for k = 20."""
        scheduler = LCMScheduler(num_train_timesteps=self.schedule.num_timesteps)
        most = self.schedule.num_timesteps // self.settings.skipping_step
        if not 1 <= steps <= most:
            raise UserError(f"the number of sampling steps is {steps}; allowed: 1 ... {most}")
        scheduler.set_timesteps(steps, original_inference_steps=most)
        return scheduler.timesteps.tolist()
