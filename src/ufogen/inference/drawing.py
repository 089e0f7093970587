"""What `UFOGen` does with diffusers' pipelines: control with a ControlNet's folder and an image; timesteps of our own."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image

from ufogen.applications.edges import edge_map, to_images
from ufogen.base.loading import load_part
from ufogen.base.text import Conditioning
from ufogen.errors import UserError
from ufogen.inference.arguments import checked_number

MAX_SCALE = 100  # 1 is what a ControlNet was trained with; far above it a picture is not finite any more
MATCHED = ("in_channels", "cross_attention_dim", "block_out_channels")  # that a ControlNet shares with the U-Net it is for


def load_controlnet(folder: Path, pipeline: StableDiffusionPipeline) -> ControlNetModel:
    """A ControlNet for this pipeline's U-Net. Raises `UserError` where there is none or it is for another."""
    if not (folder / "config.json").is_file():
        wanted = "wanted: a folder that ControlNetModel.save_pretrained wrote"
        raise UserError(f"control network {folder} is not a ControlNet's folder: it has no config.json; {wanted}")
    control = load_part(ControlNetModel, folder, f"control network {folder}", pipeline.unet.dtype)
    for name in MATCHED:
        theirs, ours = (json.dumps(part.config[name]) for part in (control, pipeline.unet))  # as a file a tuple is a list
        if theirs != ours:
            raise UserError(f"control network {folder} is for another model: its {name} is {theirs}, this model's {ours}")
    return control.to(pipeline.device)


def controlled_draw(
    pipeline: StableDiffusionPipeline, control: ControlNetModel, image: Image.Image, scale: float, steps: int
) -> Callable[[Conditioning, list[torch.Generator]], list[Image.Image]]:
    """Stock diffusers' own pipeline, asked for pictures with the edges of `image`, RGB of the model's size."""
    scale = checked_number("control scale", scale, 0, MAX_SCALE)
    condition = Image.fromarray(to_images(edge_map(np.array(image)[None]))[0])
    stock = StableDiffusionControlNetPipeline(**pipeline.components, controlnet=control, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    width, height = image.size

    def draw(text: Conditioning, rngs: list[torch.Generator]) -> list[Image.Image]:
        return stock(
            **text.arguments(), image=[condition] * len(rngs), generator=rngs, num_inference_steps=steps, guidance_scale=0.0,
            controlnet_conditioning_scale=scale, width=width, height=height,
        ).images  # fmt: skip

    return draw


@contextlib.contextmanager
def from_any_timestep() -> Iterator[None]:
    """Within it diffusers' LCMScheduler begins where it is told without a warning: image-to-image never begins at T - 1."""
    logger = logging.getLogger(LCMScheduler.__module__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
