"""Section 4 of UFOGen (arXiv 2311.09257), and with other settings DDGAN and SIDDM: the method, and nothing else.

An update, in the notation of the paper (s = t - k):

    x_0 ~ data, t, x_s ~ q(x_s|x_0), x_t ~ q(x_t|x_0) or q(x_t|x_s)         draw
    x'_0 = G(x_t, t)                                                        generate
    x'_s ~ q(x_s|x'_0)         forward parameterisation, UFOGen
           q(x_s|x_t, x'_0)    posterior parameterisation, DDGAN and SIDDM
    D:  min  -log D(x_s, s) - log(1 - D(x'_s, s))                           discriminator_loss
             + R1 + R2                                                      penalties
    G:  min  -log D(x'_s, s) + lambda gamma_t ||x_0 - x'_0||^2              generator_loss

Networks are functions, G(x_t, t, **caption) and D(x_s, s, x_t=x_t, **caption); `training/` knows how they are trained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ufogen import config
from ufogen.diffusion import losses
from ufogen.diffusion.batch import Items
from ufogen.diffusion.schedule import CLEAN, Schedule
from ufogen.randomness import Draws

Network = Callable[..., Tensor]
Loss = tuple[Tensor, dict[str, Tensor]]  # with scalars to log


def denoising_step(
    generator: Network, x_t: Tensor, t: Tensor, s: Tensor, noise: Tensor, schedule: Schedule, parameterization: str, **caption
) -> tuple[Tensor, Tensor]:
    """x'_0 = G(x_t, t) and x'_s ~ p(x_s|x_t), made with `noise`; at s = -1, clean data, the two are one."""
    x_0_fake = generator(x_t, t, **caption)
    p = schedule.q(x_0_fake, s) if parameterization == "forward" else schedule.posterior(x_0_fake, x_t, t, s)
    return x_0_fake, p.sample(noise)


class DiffusionGAN:
    """A point in the space of diffusion-GANs. What it draws and its losses are means over items, however many."""

    def __init__(self, schedule: Schedule, settings: config.Objective):
        """schedule: the base's until `entry_timestep`."""
        self.schedule, self.settings = schedule, settings

    def draw(self, x_0: Tensor, caption: dict[str, Tensor], draws: Draws) -> Items:
        """Timesteps, noised samples and noise for data (b, ...) with captions (b, ...)."""
        o = self.settings
        t, s = self.timesteps(draws, len(x_0), x_0.device)
        x_s = self.schedule.q(x_0, s).sample(draws.normal(x_0))
        q_t = self.schedule.q_step(x_s, s, t) if o.coupling == "chained" else self.schedule.q(x_0, t)
        noise_t, noise = draws.normal(x_0), draws.normal(x_0)
        pure = (t == self.schedule.num_timesteps - 1) & (o.entry_noise == "pure")
        x_t = torch.where(_of_items(pure, x_0), noise_t, q_t.sample(noise_t))
        # the first items of a random order are mismatched: each has the caption of the one before it in that order
        order, own = draws.uniform(len(x_0)).argsort(), torch.arange(len(x_0), device=x_0.device)
        chosen = round(o.mismatched_share * len(x_0))
        source = own.index_put((order[:chosen],), order.roll(1)[:chosen])
        caption_fake = {name: value[source] for name, value in caption.items()}
        return Items(x_0, x_s, x_t, t, s, noise, pure, caption, caption_fake, source != own)

    def timesteps(self, draws: Draws, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """t (n,), at most the entry's, and s: max(t - k, clean), or by a law of its own, which fits the forward
        parameterisation. The grid is T-1, T-1-k, ...; its last step reaches clean data."""
        o, last, k = self.settings, self.schedule.num_timesteps - 1, self.settings.step_size
        if o.timesteps == "grid":
            grid = torch.arange(last, o.minimum_timestep - 1, -k, device=device)
            t = grid[draws.integers(0, len(grid), n)]
        else:
            t = draws.integers(o.minimum_timestep, last + 1, n)
        t = torch.where(draws.uniform(n) < o.entry_share, last, t)
        if o.s_law == "uniform":
            return t, draws.integers(o.s_low, o.s_high + 1, n)
        if o.s_law == "lognormal":
            return t, self.schedule.nearest(o.s_log_sigma_mean + o.s_log_sigma_std * draws.normal(t))
        if o.step_size_max > k:
            k = draws.integers(k, o.step_size_max + 1, n)
        return t, (t - k).clamp(min=CLEAN)

    def generate(self, generator: Network, items: Items) -> tuple[Tensor, Tensor]:
        """x'_0 and x'_s."""
        i = items
        return denoising_step(generator, i.x_t, i.t, i.s, i.noise, self.schedule, self.settings.parameterization, **i.caption)

    def discriminator_loss(self, discriminator: Network, items: Items, x_s_fake: Tensor) -> Loss:
        """-log D(x_s, s) - log(1 - D(x'_s, s)), with real and fake in one pass."""
        x_s, s, x_t = torch.cat([items.x_s, fakes(items, x_s_fake)]), torch.cat([items.s] * 2), torch.cat([items.x_t] * 2)
        caption = {name: torch.cat([value, items.caption_fake[name]]) for name, value in items.caption.items()}
        real, fake = discriminator(x_s, s, x_t=x_t, **caption).chunk(2)
        loss = losses.discriminator_loss(real, fake, self.settings.adversarial)
        return loss, {"loss_d": loss.detach(), "logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}

    def penalized(self, step: int) -> bool:
        """Whether D's loss has its penalties in this update."""
        return self.settings.r1_weight + self.settings.r2_weight > 0 and step % self.settings.r1_interval == 0

    def penalties(self, discriminator: Network, items: Items, x_s_fake: Tensor) -> Loss:
        """R1 at real and R2 at generated samples; the interval's factor keeps their mean strength that of every update."""
        o, total, scalars = self.settings, 0.0, {}
        for name, weight, x_s, caption in (
            ("r1", o.r1_weight, items.x_s, items.caption),
            ("r2", o.r2_weight, fakes(items, x_s_fake), items.caption_fake),
        ):
            if weight:
                x_s = x_s.detach().requires_grad_()
                scale = self.schedule.alpha_bar(items.s) if o.r1_variable == "x_0" else None
                penalty = losses.r1_penalty(discriminator(x_s, items.s, x_t=items.x_t, **caption), x_s, scale)
                total = total + weight * o.r1_interval * penalty
                scalars[name] = penalty.detach()
        return total, scalars

    def generator_loss(self, discriminator: Network, items: Items, x_0_fake: Tensor, x_s_fake: Tensor) -> Loss:
        """-log D(x'_s, s) + lambda gamma_t ||x_0 - x'_0||^2; the reconstruction at x_s instead is SIDDM's."""
        adversarial, reconstruction = self.generator_terms(discriminator, items, x_0_fake, x_s_fake)
        scalars = {"loss_g": adversarial.detach()}
        if self.settings.reconstruction != "none":
            scalars["reconstruction"] = reconstruction.detach()
        return adversarial + self.settings.reconstruction_weight * reconstruction, scalars

    def generator_terms(
        self, discriminator: Network, items: Items, x_0_fake: Tensor, x_s_fake: Tensor
    ) -> tuple[Tensor, Tensor]:
        """-log D(x'_s, s) and gamma_t ||x_0 - x'_0||^2, which is 0 without a reconstruction."""
        o, t, s = self.settings, items.t, items.s
        fake, real = discriminator(x_s_fake, s, x_t=items.x_t, **items.caption), None
        if o.adversarial == "relativistic":
            with torch.no_grad():
                real = discriminator(items.x_s, s, x_t=items.x_t, **items.caption)
        adversarial = losses.generator_loss(fake, o.adversarial, real)
        if o.reconstruction == "none":
            return adversarial, torch.zeros_like(adversarial)
        if o.reconstruction == "x_0":
            prediction, target, gamma = x_0_fake, items.x_0, losses.gamma_weight(o.gamma, t, self.schedule)
        else:
            prediction, target, gamma = x_s_fake, items.x_s, losses.forward_kl_weight(t, s, self.schedule)
        return adversarial, losses.reconstruction_loss(prediction, target, gamma.where(~items.pure, 0))


def fakes(items: Items, x_s_fake: Tensor) -> Tensor:
    """What D is to call fake: x'_s, and real samples under the caption of another item."""
    return torch.where(_of_items(items.mismatched, x_s_fake), items.x_s, x_s_fake)


def _of_items(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.reshape(-1, *[1] * (like.ndim - 1))
