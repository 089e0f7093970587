"""Architectures of the small base and its assembly into an ordinary diffusers folder."""

from __future__ import annotations

import warnings
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from ufogen import config
from ufogen.base.text import WIDTH, load_text_encoder
from ufogen.errors import UserError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SDXL_PARTS = (*PARTS, "text_encoder_2", "tokenizer_2")
Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline

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
    """Stable Diffusion's U-Net made narrow: cross-attention at every level but the lowest, as there, or but the highest."""
    down = ["CrossAttnDownBlock2D"] * len(c.channels)
    down[-1 if c.attention == "upper" else 0] = "DownBlock2D"
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


def make_scheduler(prediction_type: str) -> DDIMScheduler:
    """The base's scheduler for a denoiser that predicts `epsilon` or `v_prediction`."""
    return DDIMScheduler(**SCHEDULE, prediction_type=prediction_type)


def assemble(autoencoder: AutoencoderKL, denoiser: UNet2DConditionModel, scheduler: DDIMScheduler) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline of the three parts, with the frozen text encoder of the installed package."""
    encoder, tokenizer = load_text_encoder()
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def require_parts(folder: Path, name: str, kind: str) -> None:
    """Raise `UserError` where a folder, called `name`, lacks a part of such a pipeline."""
    parts = SDXL_PARTS if kind == "StableDiffusionXLPipeline" else PARTS
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise UserError(f"{name} lacks {', '.join(missing)}: a whole {kind} is needed")


def load_pipeline(folder: str | Path) -> Pipeline:
    """Load a Stable Diffusion or SDXL folder from the disk, without asking any hub."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if DiffusionPipeline.load_config(folder, local_files_only=True)["_class_name"] == "StableDiffusionXLPipeline":
            return StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, add_watermarker=False)
        return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
