"""What the page of `ufogen demo` asks of the models: pictures, what stands under each, and the time they took."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ufogen.base.autoencoder import decode_latents
from ufogen.base.text import encode_text
from ufogen.data.images import open_image
from ufogen.diffusion.sampling import sample_base
from ufogen.errors import UserError
from ufogen.inference.api import UFOGen
from ufogen.inference.export import refuse_sdxl

STEPS = (1, 2, 4)
BASE_STEPS, GUIDANCE = 25, 2.0
MAX_PICTURES = 16  # at a time
MAX_CHARACTERS = 10_000  # of a prompt
MAX_PIXELS = 25_000_000  # of an upload


@dataclass(frozen=True)
class Drawing:
    """Pictures, a caption for each, and a line on what was done and how long it took."""

    images: list[Image.Image]
    captions: list[str]
    line: str


class Studio:
    """A one-step model and, where there is one, its base. Methods raise `UserError` for what cannot be drawn.

    All pictures of a call are one batch, so a few of their bytes may differ by one from those of `ufogen sample`.
    """

    def __init__(self, model: UFOGen, base: UFOGen | None = None):
        self.model, self.base = model, base

    def draw(
        self, prompt: str, seed: int, n: int, steps: int = 1, image: Image.Image | None = None, strength: float = 0.8
    ) -> Drawing:
        """The n pictures of the seeds seed, seed + 1, ... from the prompt, or from an image towards the prompt."""
        _check_prompt(prompt)
        _check("number of pictures", n, range(1, MAX_PICTURES + 1))
        _check("number of steps", steps, STEPS)
        settings = {"seed": seed, "n": n, "steps": steps, "batch_size": n}
        began = time.perf_counter()
        images = self.model(prompt, **settings) if image is None else self.model.edit(image, prompt, strength, **settings)
        line = f"{_pictures(images)}, {steps} step{'s' * (steps > 1)}: {_time(began)}"
        if not self.model.reads_whole(prompt):
            line += f"; the prompt has more than {self.model.pipeline.tokenizer.model_max_length} tokens, the rest is not read"
        return Drawing(images, [f"seed {seed + i}" for i in range(n)], line)

    def draw_base(self, prompt: str, seed: int, n: int) -> Drawing:
        """The base's pictures from the same noise with 25 DDIM steps and guidance 2, from the prompt alone."""
        if self.base is None:
            raise UserError("there is no base model: name its folder with --base")
        _check_prompt(prompt)
        _check("number of pictures", n, range(1, MAX_PICTURES + 1))
        noise = torch.cat([self.base.initial_noise(seed + i) for i in range(n)])
        pipeline = self.base.pipeline
        refuse_sdxl(pipeline, "a base model in the demo")
        began = time.perf_counter()
        conditional, empty = encode_text([prompt, ""], pipeline.text_encoder, pipeline.tokenizer)
        prompt_embeds = conditional.expand(n, -1, -1)
        x_0 = sample_base(pipeline.unet, noise, prompt_embeds, empty, pipeline.scheduler.config, BASE_STEPS, GUIDANCE)
        images = [Image.fromarray(image) for image in decode_latents(x_0, pipeline.vae)]
        line = f"{_pictures(images)}, {BASE_STEPS} steps, guidance {GUIDANCE:g}: {_time(began)}"
        return Drawing(images, [f"seed {seed + i}" for i in range(n)], line)

    def interpolate(self, prompts: tuple[str, str], seeds: tuple[int, int], frames: int) -> Drawing:
        """One-step pictures on the way from a prompt and a seed to others. A second prompt that is empty is the first."""
        for prompt in prompts:
            _check_prompt(prompt)
        _check("number of frames", frames, range(2, MAX_PICTURES + 1))
        began = time.perf_counter()
        images = self.model.interpolate([prompts[0], prompts[1] or prompts[0]], seeds, frames, batch_size=frames)
        captions = [f"{i / (frames - 1):.0%}" for i in range(frames)]
        return Drawing(images, captions, f"{_pictures(images)}, 1 step: {_time(began)}")

    def read_upload(self, path: Path) -> Image.Image:
        """An uploaded file as the model sees it: its middle square at the model's size."""
        try:
            return open_image(path, self.model.image_size, MAX_PIXELS)
        except UserError as error:
            raise UserError(str(error).replace(str(path), path.name)) from error


def _check_prompt(prompt: str) -> None:
    if isinstance(prompt, str) and len(prompt) > MAX_CHARACTERS:
        raise UserError(f"the prompt has {len(prompt):,} characters; allowed: {MAX_CHARACTERS:,}")


def _check(name: str, value: int, allowed: Iterable[int]) -> None:
    if value not in allowed:
        raise UserError(f"the {name} is {value}; allowed: {', '.join(map(str, allowed))}")


def _pictures(images: list[Image.Image]) -> str:
    return f"{len(images)} picture{'s' * (len(images) > 1)}"


def _time(began: float) -> str:
    return f"{1000 * (time.perf_counter() - began):.0f} ms"
