"""Low-rank adapters (LoRA) through peft: added to a U-Net, merged into it, and written as diffusers reads them."""

from __future__ import annotations

import copy
from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers

from ufogen.diffusion.networks import Discriminator, Generator
from ufogen.errors import UserError

# attention, the convolutions of residual blocks, and those that change the resolution
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "conv"]


def add_lora(network: Generator | Discriminator, rank: int) -> None:
    """Freeze the U-Net and add adapters that change nothing yet. What is new in a discriminator trains in full.

    Raises `UserError` where peft is absent.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError(
            f"adapters of rank {rank} need the package peft: pip install 'peft>=0.21,<0.22', or set the ranks to 0"
        ) from error
    unet = network.unet
    unet.requires_grad_(False)
    # alpha = rank: the scale is 1, which is what a LoRA file without alphas is read with
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))
    if isinstance(network, Discriminator):
        for part in network.new_parts():
            part.requires_grad_(True)


def save_generator(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write folder/unet, with adapters merged, and for a U-Net that has them also folder/lora."""
    if hasattr(unet, "peft_config"):
        from peft import get_peft_model_state_dict

        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
        StableDiffusionPipeline.save_lora_weights(folder / "lora", unet_lora_layers=layers)
        unet = copy.deepcopy(unet)
        unet.fuse_lora()
        unet.unload_lora()
    unet.save_pretrained(folder / "unet")
