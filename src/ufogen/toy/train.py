"""Training and sampling of one arm: a method with T denoising steps, all seeds at once.

The update is that of objectives/diffusion_gan.py with two more axes, the critic's input and a latent z. Tensors are
(seeds, b, ...); the functions of `Schedule` and `losses` see them with the first two axes as one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ufogen.diffusion import losses
from ufogen.diffusion.networks import frozen
from ufogen.diffusion.sampling import step_timesteps
from ufogen.diffusion.schedule import CLEAN, Gaussian, Schedule
from ufogen.randomness import torch_generator
from ufogen.toy import mixture
from ufogen.toy.networks import Discriminator, Generator
from ufogen.toy.settings import TIMESTEPS, Method, Toy
from ufogen.training.learning_rate import learning_rate, set_learning_rate

COSINE_OFFSET, COSINE_FLOOR = 0.008, 1e-6


def make_schedule(kind: str) -> Schedule:
    """1000 timesteps. cosine: alpha_bar = cos^2(((u + 0.008) / 1.008) pi / 2) with u = (t + 1) / 1000, as in the toy of SIDDM,
    kept above 1e-6 at the end. stable_diffusion: the betas of the base."""
    if kind == "cosine":
        u = torch.arange(1, TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
        alpha_bar = ((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).cos() ** 2
        return Schedule(alpha_bar.clamp(min=COSINE_FLOOR))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return Schedule(torch.cumprod(1 - betas, 0))


class Arm:
    """A method, its number of trained denoising steps T and the networks of every seed."""

    def __init__(self, method: Method, steps: int, settings: Toy, seeds: list[int]):
        self.method, self.steps, self.settings, self.seeds = method, steps, settings, seeds
        self.schedule = make_schedule(settings.schedule)
        self.grid = torch.tensor(step_timesteps(steps, TIMESTEPS)).flip(0)  # (T,), ascending
        shape = (seeds, settings.width)
        self.generator = Generator(*shape, method.latent, settings.frequencies)
        self.discriminator = Discriminator(*shape, method.discriminator_input == "joint", settings.frequencies)
        self.average = Generator(*shape, method.latent, settings.frequencies).requires_grad_(False)

    def train(self) -> None:
        """All updates; the averaged generator is what is sampled afterwards."""
        c = self.settings
        betas = (c.beta1, c.beta2)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), c.generator_learning_rate, betas, fused=True)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), c.discriminator_learning_rate, betas, fused=True)
        draws = [torch_generator("cpu", seed, "laboratory training") for seed in self.seeds]
        for step in range(c.updates):
            set_learning_rate(self.optimizer_g, learning_rate(step, c.generator_learning_rate, 0, c.updates))
            set_learning_rate(self.optimizer_d, learning_rate(step, c.discriminator_learning_rate, 0, c.updates))
            self._update(step, draws)

    def _update(self, step: int, draws: list[torch.Generator]) -> None:
        """One optimizer step of D, then one of G, from the same forward pass of G."""
        c, m, n = self.settings, self.method, len(self.seeds)
        normal = torch.stack([torch.randn(4, c.batch_size, 2, generator=g) for g in draws], dim=1)  # (4, seeds, b, 2)
        index = torch.stack([torch.randint(mixture.MODES * self.steps, (c.batch_size,), generator=g) for g in draws])
        z = torch.stack([torch.rand(c.batch_size, m.latent, generator=g) for g in draws])
        x_0 = mixture.from_draws(index % mixture.MODES, normal[0])
        t = self.grid[index // mixture.MODES]
        s = (t - TIMESTEPS // self.steps).clamp(min=CLEAN)

        x_s = _sample(self.schedule.q(_flat(x_0), _flat(s)), normal[1])
        if m.coupling == "chained":
            x_t = _sample(self.schedule.q_step(_flat(x_s), _flat(s), _flat(t)), normal[2])
        else:
            x_t = _sample(self.schedule.q(_flat(x_0), _flat(t)), normal[2])
        x_0_fake = self.generator(x_t, t, z)
        x_s_fake = _sample(self._law(x_0_fake, x_t, t, s), normal[3])

        both = [torch.cat([a, b], dim=1) for a, b in ((x_s, x_s_fake.detach()), (x_t, x_t), (s, s))]
        real, fake = self.discriminator(*both).chunk(2, dim=1)
        loss = n * losses.discriminator_loss(real, fake, "nonsaturating")
        if c.r1_weight and step % c.r1_interval == 0:
            x_s_leaf = x_s.detach().requires_grad_()
            penalty = losses.r1_penalty(_flat(self.discriminator(x_s_leaf, x_t, s)), x_s_leaf)
            loss = loss + n * c.r1_weight * c.r1_interval * penalty
        self.optimizer_d.zero_grad()
        loss.backward()
        self.optimizer_d.step()

        with frozen(self.discriminator):
            loss = losses.generator_loss(self.discriminator(x_s_fake, x_t, s), "nonsaturating")
        if m.reconstruction == "x_0":
            gamma = losses.gamma_weight(m.gamma, _flat(t), _flat(s), self.schedule)
            loss = loss + c.reconstruction_weight * losses.reconstruction_loss(_flat(x_0_fake), _flat(x_0), gamma)
        elif m.reconstruction == "x_s":
            gamma = losses.forward_kl_weight(_flat(t), _flat(s), self.schedule)
            loss = loss + c.reconstruction_weight * losses.reconstruction_loss(_flat(x_s_fake), _flat(x_s), gamma)
        self.optimizer_g.zero_grad()
        (n * loss).backward()
        self.optimizer_g.step()
        decay = min(c.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                average.lerp_(value, 1 - decay)

    def _law(self, x_0_fake: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Gaussian:
        """p(x_s | x_t) with the first two axes as one."""
        if self.method.parameterization == "forward":
            return self.schedule.q(_flat(x_0_fake), _flat(s))
        return self.schedule.posterior(_flat(x_0_fake), _flat(x_t), _flat(t), _flat(s))

    @torch.no_grad()
    def sample(self, steps: int, n: int) -> Tensor:
        """n samples of each seed (seeds, n, 2) in 1 ... T steps from x_T ~ N(0, I), by the averaged generator.

        The timesteps are equally far apart on the trained grid, or as nearly as it allows.
        """
        timesteps = self.grid[step_timesteps(steps, self.steps)].tolist() + [CLEAN]
        draws = [torch_generator("cpu", seed, "laboratory sampling", steps) for seed in self.seeds]
        x_t = torch.stack([torch.randn(n, 2, generator=g) for g in draws])
        for now, following in zip(timesteps[:-1], timesteps[1:], strict=True):
            t, s = (torch.full((len(draws), n), value) for value in (now, following))
            z = torch.stack([torch.rand(n, self.method.latent, generator=g) for g in draws])
            fresh = torch.stack([torch.randn(n, 2, generator=g) for g in draws])
            x_t = _sample(self._law(self.average(x_t, t, z), x_t, t, s), fresh)
        return x_t


def _flat(x: Tensor) -> Tensor:
    """(seeds, b, ...) -> (seeds b, ...)."""
    return x.flatten(0, 1)


def _sample(law: Gaussian, noise: Tensor) -> Tensor:
    """A draw from a law over the flat first axis, in the shape of the noise (seeds, b, 2)."""
    return law.sample(_flat(noise)).view_as(noise)
