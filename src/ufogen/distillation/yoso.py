"""YOSO, You Only Sample Once (Luo et al. 2024, arXiv 2403.12931), after the authors' released code.

x_t, x_u and x_v share one noise, u = t - 250 and v = t - 25, both at least 0, and f has the boundary condition of consistency
models. D judges clean samples and is told t and the caption:

    D:  min  -log D(G(x_u, u), t) - log(1 - D(f(x_t, t), t))           self-cooperative: its real is G's own, from less noise
    G:  min  -log D(f(x_t, t), t)
             + lambda_con min(w_t, 5) ||f(x_t, t) - f(x_v, v)||^2      consistency, to a stopped f(x_v, v)
             + lambda_kl min(SNR_t, 5) ||f(x_t, t) - x_0||^2           reconstruction

Other than in the released code: every item has its own loss (there logits are averaged over the batch before the softplus),
consistency is measured in latents (there in features of the base, which it calls a choice), D is UFOGen's (there the
encoder and middle of the base with an attention pool), and all weights are trained (there adapters).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from ufogen.diffusion import losses
from ufogen.diffusion.networks import Discriminator
from ufogen.diffusion.objective import Loss, Network
from ufogen.diffusion.schedule import Schedule
from ufogen.distillation.boundary import consistency_function
from ufogen.distillation.method import Method, Networks
from ufogen.randomness import Draws


@dataclass
class Items:
    x_0: Tensor  # (b, c, h, w), as every x
    x_t: Tensor
    t: Tensor  # (b,), as u and v
    x_u: Tensor  # less noisy: D's real
    u: Tensor
    x_v: Tensor  # a little less noisy: consistency
    v: Tensor
    caption: dict[str, Tensor]


def consistency_weight(t: Tensor, v: Tensor, schedule: Schedule, cap: float) -> Tensor:
    """min(1 / (1/r_t - 1/r_v), cap) (b,) float64, r = sqrt(SNR): the closer two inputs, the more they must agree."""
    apart = schedule.snr(t).rsqrt() - schedule.snr(v).rsqrt()
    return apart.reciprocal().clamp(max=cap)


def capped_snr(t: Tensor, schedule: Schedule, cap: float) -> Tensor:
    """min(SNR_t, cap) (b,) float64 (min-SNR, Hang et al. 2023, arXiv 2303.09556)."""
    return schedule.snr(t).clamp(max=cap)


class YOSO(Method):
    critic_passes = 3  # D's real is a pass of G, and D sees both
    student_passes = 2  # G for consistency, and D

    def make_critic(self, unet: UNet2DConditionModel) -> Discriminator:
        return Discriminator(copy.deepcopy(unet).train())

    def draw(self, x_0: Tensor, caption: dict[str, Tensor], draws: Draws, phase: int) -> Items:
        o, noise = self.settings, draws.normal(x_0)
        t = draws.integers(0, self.schedule.num_timesteps, len(x_0))
        u, v = ((t - step).clamp(min=0) for step in (o.cooperation_step, o.consistency_step))
        x_t, x_u, x_v = (self.schedule.q(x_0, each).sample(noise) for each in (t, u, v))
        return Items(x_0, x_t, t, x_u, u, x_v, v, caption)

    def denoiser(self, network: Network) -> Network:
        return consistency_function(network)

    def critic_loss(self, networks: Networks, items: Items, x_0_fake: Tensor) -> Loss:
        """G's own prediction from less noise is real."""
        with torch.no_grad():
            own = networks.student(items.x_u, items.u, **items.caption)
        both = {name: torch.cat([value, value]) for name, value in items.caption.items()}
        real, fake = networks.critic(torch.cat([own, x_0_fake]), torch.cat([items.t] * 2), **both).chunk(2)
        loss = losses.discriminator_loss(real, fake, "nonsaturating")
        return loss, {"loss_d": loss.detach()}

    def student_loss(self, networks: Networks, items: Items, x_0_fake: Tensor) -> Loss:
        o, schedule = self.settings, self.schedule
        with torch.no_grad():
            target = self.denoiser(networks.student)(items.x_v, items.v, **items.caption)
        weight = consistency_weight(items.t, items.v, schedule, o.weight_cap)
        consistency = losses.reconstruction_loss(x_0_fake, target, weight)
        reconstruction = losses.reconstruction_loss(x_0_fake, items.x_0, capped_snr(items.t, schedule, o.weight_cap))
        gan = losses.generator_loss(networks.critic(x_0_fake, items.t, **items.caption), "nonsaturating")
        loss = gan + o.consistency_weight * consistency + o.reconstruction_weight * reconstruction
        found = {"loss_g": gan, "consistency": consistency, "reconstruction": reconstruction}
        return loss, {name: value.detach() for name, value in found.items()}
