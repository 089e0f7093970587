"""The terms of the objective, one short function each. Logits are (b, ...): every element is a decision.

Equation numbers are those of UFOGen (arXiv 2311.09257) where they are confirmed; gamma_t is an open question of the
paper (docs/settings.md), so its candidates stand side by side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ufogen.diffusion.schedule import Schedule

CLAMP = 0.5  # margin of the logits in the author's released code
EQUILIBRIUM = {"nonsaturating": 2 * math.log(2), "clamped_bce": 2 * math.log(2), "hinge": 2.0, "relativistic": math.log(2)}


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """-log D(x_s, s) - log(1 - D(x'_s, s)), averaged over items and positions; at equilibrium `EQUILIBRIUM[kind]`.

    relativistic: softplus of fake less real, in pairs of one caption and s (Jolicoeur-Martineau 2018, arXiv 1807.00734;
    as in R3GAN, Huang et al. 2024, arXiv 2501.05441).
    """
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "clamped_bce":
        real, fake = real.clamp(max=CLAMP), fake.clamp(min=-CLAMP)
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, kind: str, real: Tensor | None = None) -> Tensor:
    """The non-saturating -log D(x'_s, s); for the hinge form -D(x'_s, s); relativistic, softplus of real less fake."""
    if kind == "relativistic":
        return F.softplus(real - fake).mean()
    if kind == "hinge":
        return -fake.mean()
    if kind == "clamped_bce":
        fake = fake.clamp(max=CLAMP)
    return F.softplus(-fake).mean()


def reconstruction_loss(prediction: Tensor, target: Tensor, gamma: Tensor) -> Tensor:
    """gamma_t ||target - prediction||^2, averaged over items and elements; `gamma` (b,)."""
    return (gamma.to(target.dtype) * (target - prediction).square().flatten(1).mean(dim=1)).mean()


def gamma_weight(kind: str, t: Tensor, schedule: Schedule) -> Tensor:
    """gamma_t (b,) float64, the weight of ||x_0 - x'_0||^2 at timestep t.

    snr: equal to the plain epsilon loss, as in the author's released code.
    truncated_snr: max(SNR_t, 1), Salimans & Ho 2022.
    constant: 1; pulls one-step samples to the conditional mean.
    """
    if kind == "constant":
        return torch.ones_like(t, dtype=torch.float64)
    snr = schedule.snr(t)
    return snr.clamp(min=1) if kind == "truncated_snr" else snr


def forward_kl_weight(t: Tensor, s: Tensor, schedule: Schedule) -> Tensor:
    """(1 - beta_{t|s}) / (2 beta_{t|s}) (b,) float64: KL(q(x_t|x'_s) || q(x_t|x_s)) = weight ||x_s - x'_s||^2 (SIDDM)."""
    beta = schedule.step_variance(t, s)
    return (1 - beta) / (2 * beta)


def r1_penalty(logits: Tensor, x_s: Tensor, scale: Tensor | None = None) -> Tensor:
    """||grad of D at real data||^2 / 2 with respect to D's input x_s, averaged over items (Mescheder et al. 2018).

    D's decision for an item is the mean of its logits; `x_s` (b, c, h, w) must require a gradient. `scale` (b,) weighs the
    items: with alpha_bar_s it is the penalty with respect to x_0, through x_s = sqrt(alpha_bar_s) x_0 + noise.
    """
    decision = logits.flatten(1).mean(dim=1).sum()
    (gradient,) = torch.autograd.grad(decision, x_s, create_graph=True)
    penalty = 0.5 * gradient.square().flatten(1).sum(dim=1)
    return (penalty if scale is None else scale.to(penalty.dtype) * penalty).mean()
