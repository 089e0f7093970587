"""Sample every method of the comparison from the same prompts and the same noise."""

from __future__ import annotations

import json

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
from ufogen.evaluation.methods import Method, methods
from ufogen.inference.export import for_sampling, load_base
from ufogen.pipelines.main.prepare import read_pairs
from ufogen.pipelines.stage import ARTIFACTS, publish, run
from ufogen.precision import DTYPES
from ufogen.randomness import torch_generator
from ufogen.training.loop import make_accelerator


class Samplers:
    """The two models, loaded once, behind one call."""

    def __init__(self, c: config.Config, device: torch.device):
        self.seed, self.device = c.seed, device
        dtype = DTYPES[c.sampler.precision]
        self.base = for_sampling(load_base(ARTIFACTS / "base"), device, dtype)
        self.schedule = Schedule.from_scheduler(self.base.scheduler).to(device)
        unet = UNet2DConditionModel.from_pretrained(ARTIFACTS / "train" / "unet").to(device, dtype).eval()
        self.generator = Generator(unet, self.schedule, self.base.scheduler.config.prediction_type)
        self.empty = encode_nothing(self.base)

    def encode(self, prompts: list[str]) -> Conditioning:
        return encode_prompts(prompts, text_encoders(self.base))

    def noise(self, n: int, block: int) -> Tensor:
        """x_T of block `block`, the same for every method."""
        channels, size = self.base.unet.config.in_channels, self.base.unet.config.sample_size
        rng = torch_generator("cpu", self.seed, "initial noise", block)
        return torch.randn((n, channels, size, size), generator=rng).to(self.device)

    def latents(self, method: Method, noise: Tensor, text: Conditioning, block: int = 0) -> Tensor:
        if method.method == "ufogen":
            rng = torch_generator(self.device, self.seed, "fresh noise", block)
            return sample_generator(
                self.generator, noise, text.prompt_embeds, self.schedule, method.steps, rng,
                pooled_prompt_embeds=text.pooled_prompt_embeds,
            )  # fmt: skip
        return sample_base(
            self.base.unet, noise, text.prompt_embeds, self.empty.prompt_embeds[0], self.base.scheduler.config,
            method.steps, method.guidance, method.sampler, text.pooled_prompt_embeds, self.empty.pooled_prompt_embeds,
        )  # fmt: skip

    def images(self, method: Method, noise: Tensor, text: Conditioning, block: int = 0) -> np.ndarray:
        return decode_latents(self.latents(method, noise, text, block), self.base.vae)


def main(c: config.Config) -> None:
    """Write artifacts/samples: for each method the images for the evaluation prompts and for the held-out pairs."""
    samplers = Samplers(c, make_accelerator(c.device, "no").device)
    with publish(ARTIFACTS / "samples") as out:
        for part in ("evaluation", "heldout"):
            prompts = read_pairs(ARTIFACTS / "data" / part).captions
            text = samplers.encode(prompts)
            for method in tqdm(methods(c), desc=part, mininterval=5):
                images = []
                for block, start in enumerate(range(0, len(prompts), c.sampler.batch_size)):
                    some = text[start : start + c.sampler.batch_size]
                    images.append(samplers.images(method, samplers.noise(len(some), block), some, block))
                (out / part).mkdir(exist_ok=True)
                np.save(out / part / f"{method.name}.npy", np.concatenate(images))
        (out / "card.json").write_text(json.dumps([vars(method) for method in methods(c)], indent=1))


if __name__ == "__main__":
    run(main)
