"""Image files and captions to what training sees, through the frozen halves of the base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ufogen import config
from ufogen.base.autoencoder import to_model_range
from ufogen.base.models import Pipeline
from ufogen.base.text import encode_prompts, text_encoders
from ufogen.data.crops import cut, read_rgb
from ufogen.data.shards import Shard
from ufogen.diffusion.batch import EncodedBatch
from ufogen.errors import UserError
from ufogen.precision import DTYPES, resolve_precision
from ufogen.randomness import torch_generator


@dataclass
class Decoded:
    """An image (resolution, resolution, 3) uint8 with its caption, and the number of its draws."""

    image: np.ndarray
    caption: str
    key: tuple[int, int]


class Encoder:
    """Every draw, of the crop's place and of the autoencoder's noise, is keyed by the pair alone.

    A pair's latents are therefore the same in whatever batch, process or epoch it is encoded, up to rounding.
    """

    def __init__(
        self,
        base: Pipeline,
        settings: config.Data,
        seed: int,
        device: torch.device | str,
    ):
        self.vae = base.vae.to(device)
        self.text = [(encoder.to(device), tokenizer) for encoder, tokenizer in text_encoders(base)]
        self.kinds = (
            ("latents", "prompt_embeds", "pooled_prompt_embeds") if len(self.text) > 1 else ("latents", "prompt_embeds")
        )  # of a batch
        self.precision = resolve_precision(settings.encode_precision, device)
        # SDXL's autoencoder overflows in float16; that flag is SDXL's, other pipelines of diffusers disregard it
        self.half_vae = self.precision != "no" and not (len(self.text) > 1 and self.vae.config.force_upcast)
        self.settings, self.seed = settings, seed
        self.resolution = settings.resolution or base.unet.config.sample_size * base.vae_scale_factor

    def decode(self, shard: Shard, row: int) -> Decoded:
        """A pair of a shard, cut to a square. Raises `UserError` where its image is broken."""
        key, (data, caption) = shard.key(row), shard.read(row)
        return Decoded(cut(read_rgb(data), self.settings, self.resolution, self.seed, *key), caption, key)

    def decode_or_skip(self, shard: Shard, row: int) -> Decoded | None:
        """The same, None where its image is broken. With data.broken=refuse raises `UserError` that names the pair."""
        try:
            return self.decode(shard, row)
        except UserError as error:
            if self.settings.broken == "skip":
                return None
            raise UserError(f"pair {row} of shard {shard.path}: {error}; data.broken=skip leaves it out") from error

    @torch.no_grad()
    def encode(self, pairs: list[Decoded]) -> EncodedBatch:
        """Latents, a sample of the autoencoder's Gaussian each, and text's prompt_embeds, float16 on the encoder's device."""
        latents, prompt_embeds, pooled_prompt_embeds = [], [], []
        device, size = self.vae.device, self.settings.encode_batch_size
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            with torch.autocast(device.type, DTYPES[self.precision], enabled=self.half_vae):
                posterior = self.vae.encode(to_model_range(np.stack([p.image for p in part]), device)).latent_dist
            with torch.autocast(device.type, DTYPES[self.precision], enabled=self.precision != "no"):
                text = encode_prompts([p.caption for p in part], self.text)
            noise = torch.stack([self._noise(p.key, posterior.mean.shape[1:]) for p in part]).to(device)
            latent = posterior.mean.float() + posterior.std.float() * noise  # (b, c, h, w)
            latents.append((latent * self.vae.config.scaling_factor).half())
            prompt_embeds.append(text.prompt_embeds.half())
            if text.pooled_prompt_embeds is not None:
                pooled_prompt_embeds.append(text.pooled_prompt_embeds.half())
        return EncodedBatch(
            torch.cat(latents),
            torch.cat(prompt_embeds),
            pooled_prompt_embeds=torch.cat(pooled_prompt_embeds) if pooled_prompt_embeds else None,
        )

    def _noise(self, key: tuple[int, int], shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=torch_generator("cpu", self.seed, "encode", *key))
