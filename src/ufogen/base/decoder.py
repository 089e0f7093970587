"""Training of the autoencoder's decoder alone: robust to the errors of a generator's latents, and crisp.

Stable Diffusion's autoencoder is trained against a patch discriminator (Rombach et al. 2022, section 3.1). Noise on the
latents teaches the decoder to map what is near a latent to what the latent stands for (noise-augmented
decoding, Zheng et al. 2025, arXiv 2510.11690). The encoder stays as it is, so latents, and what was trained on them, do too.
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ufogen import config
from ufogen.base.autoencoder import to_model_range
from ufogen.diffusion.losses import discriminator_loss, generator_loss, r1_penalty
from ufogen.diffusion.networks import trainable, without_gradients
from ufogen.randomness import Draws
from ufogen.training.learning_rate import learning_rate, set_learning_rate
from ufogen.training.optimizers import skipped, step_where_finite


class PatchDiscriminator(nn.Sequential):
    """Images (b, 3, h, w) in [-1, 1] -> logits (b, 1, h/4, w/4): each sees 32 pixels on a side."""

    def __init__(self, channels: int):
        c, layers = channels, []
        for width_in, width_out, kernel, stride in (
            (3, c, 3, 1), (c, 2 * c, 4, 2), (2 * c, 2 * c, 3, 1), (2 * c, 4 * c, 4, 2), (4 * c, 4 * c, 3, 1),
        ):  # fmt: skip
            layers += [nn.Conv2d(width_in, width_out, kernel, stride, padding=1), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(4 * c, 1, 3, padding=1))


class DecoderTask:
    """Reconstruction from noisy latents (absolute and squared error) and a hinge loss; Adam, warm-up, cosine decay, average.

    The noise's standard deviation is drawn for each item, |N(0, latent_noise^2)| in units of the scaled latents.
    """

    def __init__(self, model: AutoencoderKL, settings: config.Decoder):
        self.model, self.settings = model, settings
        model.requires_grad_(False)
        for part in (model.decoder, model.post_quant_conv):
            part.requires_grad_(True)
        self.trained = trainable(model)
        self.discriminator = PatchDiscriminator(settings.discriminator_channels)
        self.ema = EMAModel(self.trained, decay=settings.ema_decay, foreach=True)

    def prepare(self, accelerator: Accelerator) -> None:
        self.accelerator, s = accelerator, self.settings
        optimizers = (
            torch.optim.Adam(self.trained, lr=s.learning_rate, betas=(0.5, 0.99)),
            torch.optim.Adam(self.discriminator.parameters(), lr=s.discriminator_learning_rate, betas=(0.0, 0.99)),
        )
        self.model, self.discriminator, self.optimizer, self.optimizer_d = accelerator.prepare(
            self.model, self.discriminator, *optimizers
        )
        self.ema.to(accelerator.device)
        accelerator.register_for_checkpointing(self.ema)

    def update(self, images: np.ndarray, step: int, draws: Draws) -> dict[str, Tensor]:
        s = self.settings
        set_learning_rate(self.optimizer, learning_rate(step, s.learning_rate, s.warmup, s.updates))
        x = to_model_range(images, self.accelerator.device)  # (b, 3, 32, 32)
        model = self.accelerator.unwrap_model(self.model)
        with torch.no_grad():
            latent = model.encode(x).latent_dist
            z = latent.mean + latent.std * draws.normal(latent.mean)
            deviation = s.latent_noise * draws.normal(z[:, :1, :1, :1]).abs() / model.config.scaling_factor
            z = z + deviation * draws.normal(z)
        output = model.decode(z).sample
        error = output - x
        l1, l2 = error.abs().mean(), error.square().mean()
        with without_gradients(list(self.discriminator.parameters())):
            adversarial = generator_loss(self.discriminator(output), "hinge")
            weight = s.adversarial_weight * min(1.0, step / max(1, s.adversarial_warmup))
            self.optimizer.zero_grad()
            self.accelerator.backward(l1 + l2 + weight * adversarial)
        done = step_where_finite(self.optimizer, self.accelerator.clip_grad_norm_(self.trained, 1.0))
        if done:
            self.ema.step(self.trained)
        penalized = step % s.r1_interval == 0
        real = x.clone().requires_grad_(penalized)
        logits = self.discriminator(real)
        loss_d = loss = discriminator_loss(logits, self.discriminator(output.detach()), "hinge")
        if penalized:
            loss = loss + s.r1_weight * s.r1_interval * r1_penalty(logits, real)
        self.optimizer_d.zero_grad()
        self.accelerator.backward(loss)
        gradients = [weight.grad for weight in self.discriminator.parameters()]
        done_d = step_where_finite(self.optimizer_d, nn.utils.get_total_norm(gradients, foreach=True))
        return {"l1": l1, "l2": l2, "adversarial": adversarial, "loss_d": loss_d} | skipped(done, done_d)
