"""Architectures of the small base and its assembly into an ordinary diffusers folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from ufogen import config
from ufogen.base.configuration import check_sample_size
from ufogen.base.loading import NO_CHECKER, load_part, naming
from ufogen.base.loading import Pipeline as Pipeline  # for who works with a base
from ufogen.base.text import MAX_LENGTH, WIDTH, load_text_encoder, prompt_tokens
from ufogen.errors import UserError

# Stable Diffusion's own noise schedule and sampling convention.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",  # "leading" would start a short schedule far below the last timestep
}


def build_autoencoder(c: config.Autoencoder, image_size: int = 32) -> AutoencoderKL:
    """AutoencoderKL of three levels: (b, 3, 32, 32) to (b, 4, 8, 8). Its scaling factor is set by training."""
    levels = len(c.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(c.channels),
        layers_per_block=1,
        latent_channels=c.latent_channels,
        norm_num_groups=4,
        sample_size=image_size,
    )


def build_denoiser(c: config.Denoiser, latent_channels: int = 4, latent_size: int = 8) -> UNet2DConditionModel:
    """Stable Diffusion's U-Net made narrow, with cross-attention at every level, or at all but the highest."""
    down = ["CrossAttnDownBlock2D"] * len(c.channels)
    if c.attention == "lower":
        down[0] = "DownBlock2D"
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=tuple(down),
        up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down)),
        block_out_channels=tuple(c.channels),
        layers_per_block=1,
        attention_head_dim=c.heads,  # in this class the argument is the number of heads
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


def with_attention(unet: UNet2DConditionModel, c: config.Denoiser) -> UNet2DConditionModel:
    """The same function in the layout of `c`, which may have attention where `unet` has none: it starts as the identity."""
    wider = build_denoiser(c, unet.config.in_channels, unet.config.sample_size)
    missing, unexpected = wider.load_state_dict(unet.state_dict(), strict=False)
    if unexpected or not all(".attentions." in name for name in missing):
        raise UserError("the snapshot's denoiser has other parts than pretrain.denoiser says; allowed are more attentions")
    with torch.no_grad():
        for name, parameter in wider.named_parameters():
            if name in missing and ".proj_out." in name:
                parameter.zero_()
    return wider


def make_scheduler(prediction_type: str) -> DDIMScheduler:
    """The base's scheduler for a denoiser that predicts `epsilon` or `v_prediction`."""
    return DDIMScheduler(**SCHEDULE, prediction_type=prediction_type)


def assemble(
    autoencoder: AutoencoderKL,
    denoiser: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    max_length: int = MAX_LENGTH,
    name: str = "the model",
) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline of the three parts, with the frozen text encoder of the installed package.

    Raises `UserError`, which calls it `name`, where the denoiser is not for that encoder.
    """
    encoder, tokenizer = load_text_encoder(max_length)
    width, states = denoiser.config.cross_attention_dim, encoder.config.hidden_size
    if width != states:
        raise UserError(f"{name} has a U-Net for token states of width {width}; allowed without a model_index.json: {states}")
    parts = {"vae": autoencoder, "text_encoder": encoder, "tokenizer": tokenizer, "unet": denoiser, "scheduler": scheduler}
    return StableDiffusionPipeline(**parts, **NO_CHECKER)


def load_small(folder: Path, base: Path, name: str, scheduler: type = DDIMScheduler) -> StableDiffusionPipeline:
    """U-Net and scheduler of a folder, the rest of the folder `base` and the installed text encoder, called `name`."""
    unet = load_part(UNet2DConditionModel, folder / "unet", name)
    check_sample_size(name, unet.config.sample_size)
    with naming(name):
        noise = scheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    return assemble(load_part(AutoencoderKL, base / "vae", name), unet, noise, prompt_tokens(base), name)
