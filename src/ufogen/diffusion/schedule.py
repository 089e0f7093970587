"""The forward process and what follows from it, for any pair of timesteps s < t.

Notation as in the paper: alpha_bar_t is the cumulative product of 1 - beta, so
q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I). Timesteps are the integers 0 ... T-1 of the
pretrained model; the extra index s = -1 means clean data, with alpha_bar = 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ufogen.errors import UserError

CLEAN = -1


class Gaussian(NamedTuple):
    """A diagonal Gaussian: `mean` (b, c, h, w) and scalar variance per item `variance` (b, 1, 1, 1)."""

    mean: Tensor
    variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.variance.sqrt() * noise


class Schedule:
    """alpha_bar in float64 and the Gaussians of the forward process.

    Parameters
    ----------
    alpha_bar: (T,) strictly decreasing, inside (0, 1). Raises ValueError otherwise.
    """

    def __init__(self, alpha_bar: Tensor):
        alpha_bar = alpha_bar.detach().to("cpu", torch.float64)
        inside = (alpha_bar > 0).all() and (alpha_bar < 1).all()
        if alpha_bar.ndim != 1 or not inside or not (alpha_bar.diff() < 0).all():
            raise ValueError("alpha_bar must be one-dimensional, strictly decreasing and inside (0, 1)")
        self.num_timesteps = len(alpha_bar)
        self._table = torch.cat([alpha_bar, torch.ones(1, dtype=torch.float64)])  # [-1] is clean

    def to(self, device: torch.device | str) -> Schedule:
        """Move the table to `device`, where the timesteps given later must be too."""
        self._table = self._table.to(device)
        return self

    @classmethod
    def from_scheduler(cls, scheduler) -> Schedule:
        """The schedule of a diffusers scheduler, recomputed in float64 from its betas' definition where that is known."""
        config = scheduler.config
        if getattr(config, "rescale_betas_zero_snr", False):
            raise UserError(
                "the base's scheduler has rescale_betas_zero_snr, at which x_0 is not defined from noise: set it to false"
            )
        if getattr(config, "trained_betas", None) is None:
            steps, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
            if config.beta_schedule == "scaled_linear":
                betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
                return cls(torch.cumprod(1 - betas, 0))
            if config.beta_schedule == "linear":
                return cls(torch.cumprod(1 - torch.linspace(start, end, steps, dtype=torch.float64), 0))
        return cls(scheduler.alphas_cumprod)

    def until(self, timestep: int) -> Schedule:
        """The same forward process ended earlier: its last timestep is `timestep`; 0 leaves it as it is.

        Raises `UserError` where there is no such timestep.
        """
        if timestep >= self.num_timesteps:
            raise UserError(f"parameter objective.entry_timestep is {timestep}; allowed: 0 ... {self.num_timesteps - 1}")
        return Schedule(self._table[: timestep + 1]) if timestep else self

    def nearest(self, log_sigma: Tensor) -> Tensor:
        """The timesteps (b,) whose log sigma_s is nearest, sigma_s^2 = (1 - alpha_bar_s) / alpha_bar_s."""
        table = -0.5 * self._table[:-1].logit()
        return torch.bucketize(log_sigma.to(table), (table[1:] + table[:-1]) / 2)

    def alpha_bar(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        """alpha_bar at integer timesteps `t` (b,): float64 (b,), or shaped (b, 1, ...) in the dtype of `like`."""
        if not t.is_cuda and ((t < CLEAN) | (t >= self.num_timesteps)).any():  # on a GPU the check would stall the queue
            raise ValueError(f"timesteps must lie in {CLEAN} ... {self.num_timesteps - 1}, got {t.tolist()}")
        value = self._table[t]
        return value if like is None else _match(value, like)

    def snr(self, t: Tensor, like: Tensor | None = None) -> Tensor:
        """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t); infinite at s = -1."""
        value = self.alpha_bar(t)
        value = value / (1 - value)
        return value if like is None else _match(value, like)

    def step_variance(self, t: Tensor, s: Tensor) -> Tensor:
        """beta_{t|s} = 1 - alpha_bar_t / alpha_bar_s, float64 (b,). Needs s < t."""
        if not t.is_cuda and (s >= t).any():
            raise ValueError("every s must be smaller than its t")
        return 1 - self.alpha_bar(t) / self.alpha_bar(s)

    def q(self, x_0: Tensor, t: Tensor) -> Gaussian:
        """q(x_t | x_0), DDPM eq. 4."""
        alpha_bar = self.alpha_bar(t, like=x_0)
        return Gaussian(alpha_bar.sqrt() * x_0, 1 - alpha_bar)

    def q_step(self, x_s: Tensor, s: Tensor, t: Tensor) -> Gaussian:
        """q(x_t | x_s) for s < t: one denoising step undone."""
        beta = _match(self.step_variance(t, s), x_s)
        return Gaussian((1 - beta).sqrt() * x_s, beta)

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Gaussian:
        """q(x_s | x_t, x_0) for any s < t: DDPM eq. 6 with a step from s to t in place of t-1 to t."""
        coefficient_0, coefficient_t, variance = (_match(c, x_0) for c in self.posterior_coefficients(t, s))
        return Gaussian(coefficient_0 * x_0 + coefficient_t * x_t, variance)

    def posterior_coefficients(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of x_0 and x_t in the posterior's mean, and its variance; float64 (b,) each."""
        beta, alpha_bar_s, alpha_bar_t = self.step_variance(t, s), self.alpha_bar(s), self.alpha_bar(t)
        remaining = (1 - alpha_bar_s) / (1 - alpha_bar_t)
        return alpha_bar_s.sqrt() * beta / (1 - alpha_bar_t), (1 - beta).sqrt() * remaining, beta * remaining


def _match(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
