"""Training and sampling of one arm: a method with T denoising steps, all seeds at once.

The method is `diffusion/objective.py` itself. What is the toy's own: G has a latent z beside x_t, every seed draws from its own
generator, and a loss is summed over the seeds, so that each trains as it would alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ufogen import config
from ufogen.diffusion.networks import frozen
from ufogen.diffusion.objective import DiffusionGAN, denoising_step
from ufogen.diffusion.sampling import step_timesteps
from ufogen.diffusion.schedule import CLEAN, Schedule
from ufogen.randomness import torch_generator
from ufogen.toy import mixture
from ufogen.toy.networks import Discriminator, Generator, as_items, by_seed
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


def make_objective(method: Method, steps: int, settings: Toy) -> config.Objective:
    """The method with T = `steps` denoising steps as a point in the space of diffusion-GANs."""
    return config.Objective(
        parameterization=method.parameterization,
        discriminator_input=method.discriminator_input,
        reconstruction=method.reconstruction,
        gamma=method.gamma,
        reconstruction_weight=settings.reconstruction_weight,
        coupling=method.coupling,
        step_size=TIMESTEPS // steps,
        step_size_max=0,
        timesteps="grid",
        minimum_timestep=0,
        entry_timestep=0,
        entry_share=0.0,
        entry_noise="diffused",
        s_law="step",
        s_low=0,
        s_high=0,
        s_log_sigma_mean=0.0,
        s_log_sigma_std=0.0,
        adversarial="nonsaturating",
        r1_weight=settings.r1_weight,
        r2_weight=0.0,
        r1_interval=settings.r1_interval,
        r1_variable="x_s",
        mismatched_share=0.0,
        generator_init="scratch",
        discriminator_init="scratch",
        discriminator_heads="output",
        discriminator_trained="all",
        statistics_group=0,
    )


class SeedDraws:
    """The random numbers of an update for n items of every seed, which takes all of its own from one generator.

    Attributes
    ----------
    x_0: data (n seeds, 2).
    z: the latent of G (n seeds, latent), uniform in [0, 1).
    """

    def __init__(self, generators: list[torch.Generator], n: int, steps: int, latent: int):
        def of_seeds(draw: Callable[[torch.Generator], Tensor]) -> Tensor:
            return as_items(torch.stack([draw(g) for g in generators]))

        normal = of_seeds(lambda g: torch.randn(4, n, 2, generator=g).transpose(0, 1))  # (n seeds, 4, 2)
        index = of_seeds(lambda g: torch.randint(mixture.MODES * steps, (n,), generator=g))
        self.z = of_seeds(lambda g: torch.rand(n, latent, generator=g))
        self.x_0 = mixture.from_draws(index % mixture.MODES, normal[:, 0])
        self._place, self._normal = index // mixture.MODES, iter(normal[:, 1:].unbind(1))

    def normal(self, like: Tensor) -> Tensor:
        return next(self._normal)

    def integers(self, low: int, high: int, n: int) -> Tensor:
        """The place of t on the grid, which was drawn with the mode."""
        return high - 1 - self._place

    def uniform(self, n: int) -> Tensor:
        """Not below any share: the toy draws no share of its items."""
        return torch.ones(n)


class Arm:
    """A method, its number of trained denoising steps T and the networks of every seed."""

    def __init__(self, method: Method, steps: int, settings: Toy, seeds: list[int]):
        self.method, self.steps, self.settings, self.seeds = method, steps, settings, seeds
        self.schedule = make_schedule(settings.schedule)
        self.objective = DiffusionGAN(self.schedule, make_objective(method, steps, settings))
        self.grid = torch.tensor(step_timesteps(steps, TIMESTEPS)).flip(0)  # (T,), ascending
        shape = (seeds, settings.width)
        self.generator = Generator(*shape, method.latent, settings.frequencies)
        self.discriminator = Discriminator(*shape, method.discriminator_input == "joint", settings.frequencies)
        self.ema = Generator(*shape, method.latent, settings.frequencies).requires_grad_(False)

    def train(self) -> None:
        """All updates; the averaged generator is what is sampled afterwards."""
        c = self.settings
        betas = (c.beta1, c.beta2)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), c.generator_learning_rate, betas, fused=True)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), c.discriminator_learning_rate, betas, fused=True)
        generators = [torch_generator("cpu", seed, "laboratory training") for seed in self.seeds]
        for step in range(c.updates):
            set_learning_rate(self.optimizer_g, learning_rate(step, c.generator_learning_rate, 0, c.updates))
            set_learning_rate(self.optimizer_d, learning_rate(step, c.discriminator_learning_rate, 0, c.updates))
            self._update(step, SeedDraws(generators, c.batch_size, self.steps, self.method.latent))

    def _update(self, step: int, draws: SeedDraws) -> None:
        """One optimizer step of D, then one of G, from the same forward pass of G."""
        objective, discriminator = self.objective, self.discriminator
        items = objective.draw(draws.x_0, {}, draws)
        x_0_fake, x_s_fake = objective.generate(partial(self.generator, z=draws.z), items)

        loss, _ = objective.discriminator_loss(discriminator, items, x_s_fake.detach())
        if objective.penalized(step):
            penalty, _ = objective.penalties(discriminator, items, x_s_fake.detach())
            loss = loss + penalty
        self._step(self.optimizer_d, loss)

        with frozen(discriminator):
            loss, _ = objective.generator_loss(discriminator, items, x_0_fake, x_s_fake)
        self._step(self.optimizer_g, loss)
        decay = min(self.settings.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, value in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
                average.lerp_(value, 1 - decay)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Descend a mean over the items of all seeds as their sum over seeds."""
        optimizer.zero_grad()
        (len(self.seeds) * loss).backward()
        optimizer.step()

    @torch.no_grad()
    def sample(self, steps: int, n: int) -> Tensor:
        """n samples of each seed (seeds, n, 2) in 1 ... T steps from x_T ~ N(0, I), by the averaged generator.

        The timesteps are equally far apart on the trained grid, or as nearly as it allows.
        """
        generators = [torch_generator("cpu", seed, "laboratory sampling", steps) for seed in self.seeds]
        x_t = as_items(torch.stack([torch.randn(n, 2, generator=g) for g in generators]))
        for t, s in pairwise([*self.grid[step_timesteps(steps, self.steps)].tolist(), CLEAN]):
            t, s = (torch.full((len(x_t),), value) for value in (t, s))
            z = as_items(torch.stack([torch.rand(n, self.method.latent, generator=g) for g in generators]))
            fresh = as_items(torch.stack([torch.randn(n, 2, generator=g) for g in generators]))
            _, x_t = denoising_step(self.ema, x_t, t, s, fresh, self.schedule, self.method.parameterization, z=z)
        return by_seed(x_t, len(self.seeds))
