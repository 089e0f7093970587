"""The zero-shot evaluation on COCO: its methods, the networks that sample it, and the shards that the samples lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from ufogen import config
from ufogen.base.loading import load_base, load_generator
from ufogen.data.coco import Prompts, read_prompts
from ufogen.errors import UserError
from ufogen.evaluation.sampler import Method, Sampler, methods
from ufogen.files import ARTIFACTS, sha256
from ufogen.precision import DTYPES
from ufogen.randomness import torch_generator
from ufogen.training.checkpoint import fingerprint

FITTING = ("in_channels", "out_channels", "sample_size", "cross_attention_dim")  # a generator is a copy of its base
SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
OTHERS = {"ufogen": "base_unet", "base": "generator"}  # what a method does not sample with


def size(c: config.Config) -> int:
    return getattr(c.coco.size, c.coco.split)


def prompts_file(c: config.Config) -> Path:
    return ARTIFACTS / "coco" / c.coco.split / "prompts.json"


def prompts(c: config.Config) -> Prompts:
    """The fixed prompts of the split; see `read_prompts`."""
    return read_prompts(prompts_file(c), c.coco.split, size(c), c.seed)


def compared(c: config.Config) -> list[Method]:
    """The rows of the table."""
    return methods(c.coco.methods, c.coco.ufogen_steps, c.coco.base_steps, c.coco.guidance, "coco.methods")


def blocks(c: config.Config) -> list[range]:
    """The prompts' numbers, divided into the shards."""
    return [range(first, min(first + c.coco.batch_size, size(c))) for first in range(0, size(c), c.coco.batch_size)]


def shard(c: config.Config, method: Method, block: range) -> Path:
    folder = prompts_file(c).with_name("samples")
    return folder / method.name / f"{block.start // c.coco.batch_size:05d}.tar"


def open_sampler(c: config.Config, wanted: list[Method], device: torch.device) -> Sampler:
    """The base, and the generator where a method wants it. Raises `UserError` where a folder does not fit."""
    try:
        base = load_base(c.coco.base)
    except UserError as error:  # the main chain's name for it
        raise UserError(str(error).replace("base.path", "parameter coco.base:", 1)) from error
    generates = any(method.method == "ufogen" for method in wanted)
    trained = open_generator(Path(c.coco.generator), base.unet) if generates else None
    return Sampler.load(base, trained, device, DTYPES[c.coco.precision])


def open_generator(folder: Path, base: UNet2DConditionModel) -> tuple[UNet2DConditionModel, int]:
    """`load_generator`. Raises `UserError` where it is not there or is of another base."""
    unet, entry = load_generator(folder, f"parameter coco.generator: {folder}")
    other = [f"{key} {unet.config[key]} for {base.config[key]}" for key in FITTING if unet.config[key] != base.config[key]]
    if other:
        raise UserError(f"parameter coco.generator: {folder} was not trained from coco.base: {', '.join(other)}")
    return unet, entry


def noise(sampler: Sampler, block: range, seed: int) -> Tensor:
    """x_T of prompts by their numbers, the same for every method and every division into shards."""
    return torch.cat([sampler.noise(1, seed, "coco noise", number) for number in block])


def images(sampler: Sampler, method: Method, captions: list[str], block: range, seed: int) -> np.ndarray:
    """Images (n, h, w, 3) uint8 for the captions of prompts `block`. The fresh noise of further steps is the block's."""
    fresh = torch_generator(sampler.device, seed, "coco fresh noise", block.start)
    return sampler.images(method, noise(sampler, block, seed), sampler.encode(captions), fresh)


def weights(c: config.Config, sampler: Sampler) -> dict[str, str]:
    """The hashes of all that samples."""
    parts = ["text_encoder", "unet", "vae"] + ["text_encoder_2"] * hasattr(sampler.base, "text_encoder_2")
    folders = {f"base_{part}": Path(c.coco.base) / part for part in parts}
    folders |= {"generator": Path(c.coco.generator) / "unet"} if "ufogen" in c.coco.methods else {}
    return {name: sha256(folder) for name, folder in folders.items()}


def run_id(
    c: config.Config, sampler: Sampler, hashes: dict[str, str], method: Method, captions: list[str], block: range
) -> str:
    """What a shard is known by: another prompt, setting or weight gives another."""
    own = {name: digest for name, digest in hashes.items() if name != OTHERS[method.method]}
    schedule = {key: sampler.base.scheduler.config.get(key) for key in SCHEDULE}
    return fingerprint(c.seed, c.coco.precision, schedule, own, vars(method), captions, block.start)
