"""The quality of a generator while it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ufogen import config
from ufogen.base.models import Pipeline
from ufogen.data.images import save_image_grid
from ufogen.data.pairs import read_pairs
from ufogen.diffusion.networks import Generator
from ufogen.evaluation import features
from ufogen.evaluation.evaluator import METRICS, Evaluator, nouns_of
from ufogen.evaluation.sampler import Method, Sampler
from ufogen.files import ARTIFACTS, publish
from ufogen.training.log import Table
from ufogen.training.lora import save_generator

ONE_STEP = Method("ufogen", "renoise", 1)
BLOCK = 100  # images sampled at a time


class Validation:
    """One-step samples for the validation prompts from fixed noise: pictures, KID and attributes while training goes on.

    Everything is written below `work`, so that a resumed run goes on with what it had.
    """

    def __init__(self, c: config.Config, base: Pipeline, work: Path, device: torch.device, resume: bool = False):
        self.c, self.work = c, work
        self.sampler = Sampler(base, device, entry=c.objective.entry_timestep)
        base.vae.to(device)
        n = min(c.trainer.validation_size, c.data.evaluation_size)
        self.asked = read_pairs(ARTIFACTS / "data" / "validation")[:n]
        real = read_pairs(ARTIFACTS / "data" / "validation_floor").images[: 2 * n]
        self.evaluator = Evaluator(
            features.extract(np.array(real), device=device), nouns_of(c.data), device,
            seed=c.seed, neighborhood=c.evaluation.neighborhood,
        )  # fmt: skip
        self.text = self.sampler.encode(self.asked.captions)
        self.noise = self.sampler.noise(n, c.seed, "validation noise")
        self.table = Table(work / "validation.csv", resume)

    def __call__(self, generator: Generator, step: int, *, draw: bool, measure: bool) -> None:
        """Sample once for what is due: a picture, a line of validation.csv, or both."""
        shown = 2 * self.c.sampler.grid_prompts
        images = self.images(generator, len(self.noise) if measure else shown)
        if draw:
            path = self.work / "samples" / f"{step:06d}.png"
            save_image_grid(path, images[:shown], columns=self.c.sampler.grid_prompts)
        if measure:
            self.measure(generator, images, step)

    def images(self, generator: Generator, n: int) -> np.ndarray:
        parts = [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
        latents = [self.sampler.latents(ONE_STEP, self.noise[p], self.text[p], network=generator) for p in parts]
        return self.sampler.decode(torch.cat(latents))

    def measure(self, generator: Generator, images: np.ndarray, step: int) -> None:
        """Append a line to validation.csv, and keep the generator where its KID is the lowest so far."""
        found = self.evaluator(images, self.asked)
        best = min((float(row["kid_lite0"]) for row in self.table.before(step)), default=float("inf"))
        self.table.add(step, {name: found[name] for name in METRICS if name in found})
        if found["kid_lite0"] < best:
            with publish(self.work / "best") as out:
                save_generator(generator.unet, out)

    @property
    def best(self) -> int:
        """The update whose generator is kept."""
        return int(min(self.table.rows, key=lambda row: float(row["kid_lite0"]))["update"])
