"""How much of its input's noise a generator keeps in its estimate of x_0."""

from __future__ import annotations

import torch
from torch import Tensor

from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import step_timesteps
from ufogen.diffusion.schedule import Schedule
from ufogen.randomness import torch_generator

BLOCK = 128  # items at a time


@torch.no_grad()
def noise_kept(
    generator: Generator,
    base: Generator,
    x_0: Tensor,
    prompt_embeds: Tensor,
    schedule: Schedule,
    seed: int,
    device: torch.device,
) -> dict[int, float]:
    """kappa by least squares in G(x_t) - m = kappa (x_t - sqrt(abar_t) m), where m is the base's estimate of E[x_0|x_t].

    For each t of four-step sampling. A generator that returns the posterior mean has 0; the chained reconstruction at x_s has
    its optimum at a positive kappa (README, "Open questions").

    Parameters
    ----------
    x_0, prompt_embeds: clean latents (n, c, h, w) and the token states (n, tokens, width) of their captions.
    schedule: on the CPU, where x_t is drawn; the networks are on `device`.
    """
    n = len(x_0)
    found = {}
    for t in step_timesteps(4, schedule.num_timesteps):
        times = torch.full((n,), t)
        noise = torch.randn(x_0.shape, generator=torch_generator("cpu", seed, "noise kept", t))
        x_t = schedule.q(x_0, times).sample(noise)
        means, changes = [], []
        for part in torch.arange(n).split(BLOCK):
            arguments = [value[part].to(device) for value in (x_t, times, prompt_embeds)]
            means.append(base(*arguments).cpu())
            changes.append(generator(*arguments).cpu() - means[-1])
        rest = x_t - float(schedule.alpha_bar(times[:1])) ** 0.5 * torch.cat(means)
        found[t] = float((torch.cat(changes) * rest).sum() / rest.square().sum())
    return found
