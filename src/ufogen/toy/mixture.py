"""25 Gaussians on a grid, normalised to unit variance, and what can be measured when the modes are known.

Data as in the toy of SIDDM: modes 5 apart, deviation 1/3 clamped to +-1 in each coordinate. Here they are centred and divided
by the standard deviation of a coordinate, sqrt(50 + variance in a mode) = 7.08: distances below are in units of the data's
deviation, and a squared distance is 50.1 times as large in the published units.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

MODES = 25
SPACING, DEVIATION, CLAMP = 5.0, 1 / 3, 1.0  # published units
COUNTED = 0.01  # a mode is counted from this share of its fair share on
DEFINITIONS = {
    "modes": "of 25, those in whose box lies at least 1 % of a fair share of all samples; a blur has all",
    "box_fraction": "share of samples within 3 deviations of a mode in both coordinates; data 1, uniform noise 0.16",
    "mode_kl": "KL(share of samples nearest to each mode || uniform) in nats; at most ln 25 = 3.22",
    "frechet": "Frechet distance of the Gaussians with the samples' and the mixture's moments, data scaled to unit variance",
    "wasserstein_2": "by optimal assignment to as many points of the mixture; compare with the row of fresh data",
}


def _clamped_variance() -> float:
    """Variance of a normal variable of deviation 1/3 clamped to +-1, in published units."""
    a = CLAMP / DEVIATION
    outside = math.erfc(a / math.sqrt(2))
    density = math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    return DEVIATION**2 * (1 - outside - 2 * a * density + a**2 * outside)


VARIANCE_IN_MODE = _clamped_variance()
SCALE = math.sqrt(2 * SPACING**2 + VARIANCE_IN_MODE)  # five equidistant values have the variance 2 spacing^2
HALF_BOX = CLAMP / SCALE
_axis = (torch.arange(5, dtype=torch.float64) - 2) * SPACING / SCALE
CENTRES = torch.cartesian_prod(_axis, _axis)  # (25, 2)


def from_draws(mode: Tensor, normal: Tensor) -> Tensor:
    """Data (..., 2) from modes (...) in 0 ... 24 and standard normal numbers (..., 2)."""
    offset = (normal * DEVIATION).clamp(-CLAMP, CLAMP) / SCALE
    return CENTRES.to(normal.dtype)[mode] + offset


def balanced(n: int, rng: torch.Generator) -> Tensor:
    """n points (n, 2) with equal counts of the modes where 25 divides n: a reference with less noise of its own."""
    return from_draws(torch.arange(n) % MODES, torch.randn(n, 2, generator=rng))


def draw(n: int, rng: torch.Generator) -> Tensor:
    """n points of the mixture (n, 2) float32."""
    return from_draws(torch.randint(MODES, (n,), generator=rng), torch.randn(n, 2, generator=rng))


def measure(samples: Tensor, reference: Tensor) -> dict[str, float]:
    """All of `DEFINITIONS` for samples (n, 2). W2 alone needs points of the mixture, `reference` (m, 2), and takes the
    first min(n, m) of both."""
    nearest, inside = nearest_mode(samples)
    caught = torch.bincount(nearest[inside], minlength=MODES)
    return {
        "modes": int((caught >= COUNTED * len(samples) / MODES).sum()),
        "box_fraction": inside.double().mean().item(),
        "mode_kl": kl_from_uniform(torch.bincount(nearest, minlength=MODES)),
        "frechet": frechet(samples),
        "wasserstein_2": wasserstein_2(samples[: len(reference)], reference[: len(samples)]),
    }


def nearest_mode(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Index (n,) of the mode nearest to each sample (n, 2), and whether the sample lies in that mode's box (n,)."""
    offset = samples.double()[:, None] - CENTRES
    nearest = offset.square().sum(dim=2).argmin(dim=1)
    distance = offset[torch.arange(len(samples)), nearest].abs().amax(dim=1)
    return nearest, distance <= HALF_BOX * (1 + 1e-5)  # clamped data lie on the edge, in float32


def kl_from_uniform(counts: Tensor) -> float:
    """KL(counts / sum || uniform) in nats, for counts (k,)."""
    share = counts.double() / counts.sum()
    return torch.special.xlogy(share, share * len(counts)).sum().item()


def frechet(samples: Tensor) -> float:
    """|m|^2 + tr(C + I - 2 C^1/2): the Frechet distance of the Gaussians with the moments of samples (n, 2) and of the
    mixture, which are 0 and I. It sees two moments only: any set of modes with these moments has distance 0."""
    x = samples.double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).clamp(min=0)
    return (x.mean(dim=0).square().sum() + (eigenvalues.sqrt() - 1).square().sum()).item()


def wasserstein_2(a: Tensor, b: Tensor) -> float:
    """W2 between two sets of as many points (n, 2), by optimal assignment. Not 0 for two sets from one law: compare
    with the value of fresh data."""
    cost = cdist(a.double().numpy(), b.double().numpy(), "sqeuclidean")
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))
