"""DMD2 (Yin et al. 2024, arXiv 2405.14867), of one step: distribution matching with a GAN term.

    x'_0 = G(z, tau), z ~ N(0, I)                                            tau: the conditioning timestep
    critic: a copy of the base that learns to denoise G's samples, the fake score, with a second head at its bottleneck
        min  ||x'_0 - x_0(x'_s)||^2 as in diffusion training  -  w_D (log D(x_s) + log(1 - D(x'_s)))
    G:  moves x'_0 along  real score - fake score  behind noise at s          DMD, section 3.2
        -  w_G log D(x'_s)                                                    section 4.3 of DMD2

The real score is the guided base's. The critic learns n times to one time of G (two time-scale update rule, section 4.2): it
learns in every update, and G in every n-th, after it. Two simplifications that save passes and change no law: denoising and
GAN term of the critic share one pass of x'_s and x_s, and fake score and GAN term of G share one of x'_s.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ufogen import config
from ufogen.diffusion import losses
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.objective import Loss
from ufogen.diffusion.schedule import Schedule
from ufogen.distillation.method import Method, Networks
from ufogen.errors import UserError
from ufogen.randomness import Draws


@dataclass
class Items:
    x_0: Tensor  # (b, c, h, w)
    x_t: Tensor  # pure noise, what G gets
    t: Tensor  # (b,), the conditioning timestep
    s_critic: Tensor  # (b,), where the critic learns
    s: Tensor  # (b,), where G is compared
    noise_real: Tensor  # of the critic's x_s
    noise_fake: Tensor  # of its x'_s
    noise: Tensor  # of G's x'_s
    caption: dict[str, Tensor]


def distribution_matching_gradient(x_0_fake: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """(fake - real) / mean |x'_0 - real| of each item: what G's sample x'_0 descends (DMD, arXiv 2311.18828, section 3.2).

    real, fake (b, c, h, w): the clean samples that the two scores see behind the noise of x'_s; their difference is that of
    the scores but for a positive factor, and the denominator makes it one size at every timestep.
    """
    size = (x_0_fake - real).abs().flatten(1).mean(dim=1).clamp(min=torch.finfo(real.dtype).tiny)
    return (fake - real) / size.reshape(-1, *[1] * (real.ndim - 1))


def with_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """A number, half the mean square of `gradient`, whose gradient in x is `gradient` over the number of elements."""
    return 0.5 * (x - (x - gradient).detach()).square().mean()


def output_weight(prediction_type: str, t: Tensor, schedule: Schedule) -> Tensor:
    """(b,) float64: ||x_0 - x'_0||^2 times it is the plain loss of what the network puts out, its base's training loss."""
    if prediction_type == "sample":
        return torch.ones_like(t, dtype=torch.float64)
    return schedule.snr(t) + (prediction_type == "v_prediction")


class FakeScore(Generator):
    """The fake score, x'_0 of x_s, and what it thinks of each item: a logit from the U-Net's bottleneck.

    The authors' head halves 8 x 8 positions by strided convolutions to one; this one averages them, at any size.
    """

    def __init__(self, unet: UNet2DConditionModel, schedule: Schedule, prediction_type: str):
        super().__init__(unet, schedule, prediction_type)
        channels, groups = unet.config.block_out_channels[-1], unet.config.norm_num_groups
        unet.bottleneck_head = nn.Sequential(  # inside the U-Net, so that whatever wraps its weights has these too
            nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(groups, channels), nn.SiLU(),
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 1, 1),
        )  # fmt: skip

    def forward(self, x_s: Tensor, s: Tensor, **caption: Tensor) -> tuple[Tensor, Tensor]:
        """x_s (b, c, h, w), s (b,) -> x'_0 (b, c, h, w) and logits (b,), float32."""
        logits: list[Tensor] = []
        hook = self.unet.mid_block.register_forward_hook(
            lambda block, inputs, hidden: logits.append(self.unet.bottleneck_head(hidden))
        )
        try:
            x_0 = super().forward(x_s, s, **caption)
        finally:
            hook.remove()
        return x_0, logits[0].flatten().float()


class DMD2(Method):
    teacher_passes = 1
    student_passes = 1  # the critic's
    critic_passes = 2

    def __init__(self, schedule: Schedule, settings: config.DMD2, prediction_type: str):
        super().__init__(schedule, settings, prediction_type)
        self.critic_updates = settings.critic_updates
        for key in ("conditioning_timestep", "maximum_timestep"):
            if getattr(settings, key) >= schedule.num_timesteps:
                allowed = f"0 ... {schedule.num_timesteps - 1}"
                raise UserError(f"parameter distillation.{key} is {getattr(settings, key)}; allowed: {allowed}")

    def make_critic(self, unet: UNet2DConditionModel) -> FakeScore:
        return FakeScore(copy.deepcopy(unet).train(), self.schedule, self.prediction_type)

    def draw(self, x_0: Tensor, caption: dict[str, Tensor], draws: Draws, phase: int) -> Items:
        n, o = len(x_0), self.settings
        t = torch.full((n,), o.conditioning_timestep, device=x_0.device)
        s_critic = draws.integers(0, self.schedule.num_timesteps, n)
        s = draws.integers(o.minimum_timestep, o.maximum_timestep + 1, n)
        z, noise_real, noise_fake, noise = (draws.normal(x_0) for _ in range(4))
        return Items(x_0, z, t, s_critic, s, noise_real, noise_fake, noise, caption)

    def critic_loss(self, networks: Networks, items: Items, x_0_fake: Tensor) -> Loss:
        """Denoising of G's samples, and real against fake."""
        s, noise = torch.cat([items.s_critic] * 2), torch.cat([items.noise_fake, items.noise_real])
        x_s = self.schedule.q(torch.cat([x_0_fake, items.x_0]), s).sample(noise)
        found, logits = networks.critic(x_s, s, **{name: torch.cat([value, value]) for name, value in items.caption.items()})
        fake, real = logits.chunk(2)
        weight = output_weight(self.prediction_type, items.s_critic, self.schedule)
        denoising = losses.reconstruction_loss(found.chunk(2)[0], x_0_fake, weight)
        gan = losses.discriminator_loss(real, fake, "nonsaturating")
        loss = denoising + self.settings.critic_gan_weight * gan
        return loss, {"loss_fake": denoising.detach(), "loss_d": gan.detach()}

    def student_loss(self, networks: Networks, items: Items, x_0_fake: Tensor) -> Loss:
        """Distribution matching, and the fake's logit."""
        x_s = self.schedule.q(x_0_fake, items.s).sample(items.noise)
        fake, logits = networks.critic(x_s, items.s, **items.caption)
        with torch.no_grad():
            real = networks.teacher(x_s.detach(), items.s, **items.caption)
            gradient = distribution_matching_gradient(x_0_fake, real, fake)
        gan = losses.generator_loss(logits, "nonsaturating")
        loss = with_gradient(x_0_fake, gradient) + self.settings.generator_gan_weight * gan
        return loss, {"matching": gradient.square().mean(), "loss_g": gan.detach()}

    def timesteps(self, steps: int) -> list[int]:
        """One step, at the conditioning timestep."""
        if steps != 1:
            raise UserError(f"the number of sampling steps is {steps}; allowed with dmd2, which is trained for one step: 1")
        return [self.settings.conditioning_timestep]
