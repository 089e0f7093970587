"""Sample every method for the fixed COCO prompts, in shards; what a stopped run has finished stays.

Several processes: `torchrun --standalone --nproc_per_node 8 -m ufogen.pipelines.coco.sample`. They share nothing but the
disk: each takes every n-th shard, and a shard depends on its prompts' numbers alone, not on who samples it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm

from ufogen import config
from ufogen.base.autoencoder import decode_latents
from ufogen.base.text import Conditioning, encode_nothing, encode_prompts, text_encoders
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_base, sample_generator
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.evaluation import shards
from ufogen.evaluation.methods import Method
from ufogen.inference.export import for_sampling, load_base
from ufogen.pipelines.coco.common import blocks, methods, read_prompts, shard
from ufogen.pipelines.stage import run, sha256
from ufogen.precision import DTYPES
from ufogen.randomness import torch_generator
from ufogen.training.checkpoint import fingerprint
from ufogen.training.loop import make_accelerator

FITTING = ("in_channels", "out_channels", "sample_size", "cross_attention_dim")  # a generator is a copy of its base
SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
OTHERS = {"ufogen": "base_unet", "base": "generator"}  # what a method does not sample with


class Samplers:
    """The base, and the generator where a method wants it, behind one call. Raises `UserError` where a folder does not fit."""

    def __init__(self, c: config.Config, wanted: list[Method], device: torch.device):
        self.c, self.device = c, device
        dtype = DTYPES[c.coco.precision]
        try:
            self.base = for_sampling(load_base(c.coco.base), device, dtype)
        except UserError as error:  # the main chain's name for it
            raise UserError(str(error).replace("base.path", "parameter coco.base:", 1)) from error
        self.schedule = Schedule.from_scheduler(self.base.scheduler).to(device)
        self.generator = None
        if any(method.method == "ufogen" for method in wanted):
            unet = load_generator(Path(c.coco.generator), self.base.unet).to(device, dtype).eval()
            self.generator = Generator(unet, self.schedule, self.base.scheduler.config.prediction_type)
        self.sha256 = self._sha256()

    def encode(self, prompts: list[str]) -> Conditioning:
        return encode_prompts(prompts, text_encoders(self.base))

    def noise(self, block: range) -> Tensor:
        """x_T of prompts by their numbers, the same for every method."""
        channels, size = self.base.unet.config.in_channels, self.base.unet.config.sample_size
        draws = [
            torch.randn((channels, size, size), generator=torch_generator("cpu", self.c.seed, "coco noise", number))
            for number in block
        ]
        return torch.stack(draws).to(self.device)

    def images(self, method: Method, captions: list[str], block: range) -> np.ndarray:
        """Images (n, h, w, 3) uint8 for the captions of prompts `block`. The fresh noise of further steps is the block's."""
        text, noise = self.encode(captions), self.noise(block)
        if method.method == "ufogen":
            rng = torch_generator(self.device, self.c.seed, "coco fresh noise", block.start)
            latents = sample_generator(
                self.generator,
                noise,
                text.prompt_embeds,
                self.schedule,
                method.steps,
                rng,
                pooled_prompt_embeds=text.pooled_prompt_embeds,
            )
        else:
            empty = encode_nothing(self.base)
            latents = sample_base(
                self.base.unet, noise, text.prompt_embeds, empty.prompt_embeds[0], self.base.scheduler.config,
                method.steps, method.guidance, method.sampler, text.pooled_prompt_embeds, empty.pooled_prompt_embeds,
            )  # fmt: skip
        return decode_latents(latents, self.base.vae, len(latents))

    def run(self, method: Method, captions: list[str], block: range) -> str:
        """What a shard is known by: another prompt, setting or weight gives another."""
        hashes = {name: digest for name, digest in self.sha256.items() if name != OTHERS[method.method]}
        schedule = {key: self.base.scheduler.config.get(key) for key in SCHEDULE}
        return fingerprint(self.c.seed, self.c.coco.precision, schedule, hashes, vars(method), captions, block.start)

    def _sha256(self) -> dict[str, str]:
        parts = ["text_encoder", "unet", "vae"] + ["text_encoder_2"] * hasattr(self.base, "text_encoder_2")
        folders = {f"base_{part}": Path(self.c.coco.base) / part for part in parts}
        folders |= {"generator": Path(self.c.coco.generator) / "unet"} if "ufogen" in self.c.coco.methods else {}
        return {name: sha256(folder) for name, folder in folders.items()}


def load_generator(folder: Path, base: UNet2DConditionModel) -> UNet2DConditionModel:
    """The U-Net of a trained generator. Raises `UserError` where it is not there or is of another base."""
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"parameter coco.generator: {folder / 'unet'} cannot be loaded: {reason}") from error
    other = [f"{key} {unet.config[key]} for {base.config[key]}" for key in FITTING if unet.config[key] != base.config[key]]
    if other:
        raise UserError(f"parameter coco.generator: {folder} was not trained from coco.base: {', '.join(other)}")
    return unet


def main(c: config.Config) -> None:
    """Write artifacts/coco/SPLIT/samples: for each method tar files of images and captions."""
    accelerator = make_accelerator(c.device, c.coco.precision)
    prompts, wanted = read_prompts(c), methods(c)
    samplers = Samplers(c, wanted, accelerator.device)
    mine = blocks(c)[accelerator.process_index :: accelerator.num_processes]
    for method in wanted:
        for block in tqdm(mine, desc=method.name, disable=not accelerator.is_local_main_process, mininterval=5):
            captions = prompts.captions[block.start : block.stop]
            path, name = shard(c, method, block), samplers.run(method, captions, block)
            if not shards.is_of(path, name):
                shards.write(path, samplers.images(method, captions, block), captions, block.start, name)


if __name__ == "__main__":
    run(main)
