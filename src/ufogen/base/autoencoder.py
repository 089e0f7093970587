"""Training of the autoencoder, and images to latents and back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from torch import Tensor

from ufogen import config
from ufogen.base.muon import make_optimizer
from ufogen.randomness import Draws
from ufogen.training.learning_rate import learning_rate, set_learning_rate
from ufogen.training.optimizers import skipped, step_where_finite


class AutoencoderTask:
    """A round of training: reconstruction and a small KL term towards N(0, I); Adam, warm-up, cosine decay, average.

    With `latent_noise` the decoder also sees latents further off than the encoder's own Gaussian puts them, so that it draws
    what is meant from a generator's latents, which are never exact (noise-augmented tokenizers, Yang et al. 2025,
    arXiv 2507.15856). Its standard deviation is |N(0, latent_noise^2)| for each item, in units of the latents' own.
    """

    def __init__(self, model: AutoencoderKL, settings: config.Autoencoder, round_: config.AutoencoderRound):
        self.model, self.settings, self.round = model.to(memory_format=torch.channels_last), settings, round_
        self.ema = EMAModel(model.parameters(), decay=settings.ema_decay, foreach=True)

    def prepare(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        optimizer = make_optimizer(self.round.optimizer, self.model.parameters(), self.round.learning_rate)
        self.model, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.ema.to(accelerator.device)
        accelerator.register_for_checkpointing(self.ema)

    def update(self, images: np.ndarray, step: int, draws: Draws) -> dict[str, Tensor]:
        r = self.round
        set_learning_rate(self.optimizer, learning_rate(step, r.learning_rate, self.settings.warmup, r.updates))
        x = to_model_range(images, self.accelerator.device)  # (b, 3, 32, 32)
        with self.accelerator.autocast():
            model = self.accelerator.unwrap_model(self.model)
            latent = model.encode(x).latent_dist
            z = latent.mean + latent.std * draws.normal(latent.mean)
            if r.latent_noise:
                deviation = r.latent_noise * draws.normal(z[:, :1, :1, :1]).abs() * z.float().std()
                z = z + deviation * draws.normal(z)
            output = model.decode(z).sample
        error = output.float() - x
        kl = 0.5 * (latent.mean.float().square() + latent.var.float() - 1 - latent.logvar.float()).mean()
        l1, l2 = error.abs().mean(), error.square().mean()
        loss = l2 + r.kl_weight * kl + (l1 if r.absolute_error else 0)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        done = step_where_finite(self.optimizer, self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0))
        if done:
            self.ema.step(self.model.parameters())
        return {"l1": l1, "l2": l2, "kl": kl, "posterior_std": latent.std.mean(), "loss": loss} | skipped(done)


@torch.no_grad()
def set_scaling_factor(model: AutoencoderKL, images: np.ndarray) -> float:
    """Scale latents to unit variance over `images`, as Stable Diffusion does, and store the factor in the model."""
    latents = encode_images(images, model, scale=False)
    factor = float(1 / latents.std())
    model.register_to_config(scaling_factor=factor)
    return factor


@torch.no_grad()
def encode_images(
    images: np.ndarray,
    model: AutoencoderKL,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    scale: bool = True,
) -> Tensor:
    """Images (n, h, w, 3) uint8 to latents (n, c, h/4, w/4) float32 on the model's device, scaled to unit variance.

    With a generator a sample of the encoder's Gaussian, as in Stable Diffusion's training; without, its mean.
    """
    factor = model.config.scaling_factor if scale else 1.0
    latents = []
    for start in range(0, len(images), batch_size):
        x = to_model_range(images[start : start + batch_size], model.device).to(model.dtype)
        latent = model.encode(x).latent_dist
        value = latent.mode() if generator is None else latent.sample(generator)
        latents.append(value.float() * factor)
    return torch.cat(latents)


@torch.no_grad()
def decode_latents(latents: Tensor, model: AutoencoderKL, batch_size: int = 256) -> np.ndarray:
    """Scaled latents (n, c, h, w) to images (n, H, W, 3) uint8."""
    images = []
    for start in range(0, len(latents), batch_size):
        z = latents[start : start + batch_size].to(model.device, model.dtype) / model.config.scaling_factor
        x = model.decode(z).sample.float()
        images.append(((x / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(images)


def reconstruction_error(images: np.ndarray, model: AutoencoderKL) -> float:
    """Mean squared error in units of [-1, 1] after encoding and decoding."""
    output = decode_latents(encode_images(images, model), model)
    return float(F.mse_loss(to_model_range(output, "cpu"), to_model_range(images, "cpu")))


def to_model_range(images: np.ndarray, device: torch.device | str) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32 in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
