"""What the train stage looks at while training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ufogen import config
from ufogen.base.autoencoder import decode_latents
from ufogen.base.models import Pipeline
from ufogen.base.text import encode_prompts, text_encoders
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_generator
from ufogen.diffusion.schedule import Schedule
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.fidelity import fidelity
from ufogen.figures.style import save_image_grid
from ufogen.files import publish
from ufogen.pipelines.main.prepare import read_pairs
from ufogen.pipelines.stage import ARTIFACTS
from ufogen.randomness import torch_generator
from ufogen.training.log import Table
from ufogen.training.lora import save_generator

METRICS = ("kid_lite0", "fd_lite0", "precision", "recall")


class Validation:
    """One-step samples for the validation prompts from fixed noise: pictures, KID and attributes while training goes on.

    Everything is written below `work`, so that a resumed run goes on with what it had.
    """

    def __init__(
        self,
        c: config.Config,
        base: Pipeline,
        schedule: Schedule,
        work: Path,
        device: torch.device,
        resume: bool = False,
    ):
        self.c, self.schedule, self.work, self.device = c, schedule, work, device
        self.vae = base.vae.to(device)
        n = min(c.trainer.validation_size, c.data.evaluation_size)
        pairs = read_pairs(ARTIFACTS / "data" / "validation")
        self.pairs = Pairs(pairs.images[:n], pairs.captions[:n], pairs.parts[:n], pairs.mentioned[:n])
        reference = read_pairs(ARTIFACTS / "data" / "validation_floor").images[: 2 * n]
        self.reference = features.extract(np.array(reference), device=self.device)
        self.nouns = Nouns.load(c.data.node_modules)
        self.text = encode_prompts(self.pairs.captions, text_encoders(base)).to(self.device)
        size, channels = base.unet.config.sample_size, base.unet.config.in_channels
        rng = torch_generator("cpu", c.seed, "validation noise")
        self.noise = torch.randn((n, channels, size, size), generator=rng).to(self.device)
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
        latents = []
        for start in range(0, n, 100):
            part = slice(start, min(start + 100, n))
            text = self.text[part]
            latents.append(
                sample_generator(
                    generator,
                    self.noise[part],
                    text.prompt_embeds,
                    self.schedule,
                    pooled_prompt_embeds=text.pooled_prompt_embeds,
                )
            )
        return decode_latents(torch.cat(latents), self.vae)

    def measure(self, generator: Generator, images: np.ndarray, step: int) -> None:
        """Append a line to validation.csv, and keep the generator where its KID is the lowest so far."""
        found = fidelity(
            features.extract(images, device=self.device), self.reference, seed=self.c.seed,
            kid_subsets=50, kid_subset_size=max(len(images) // 2, 2), neighborhood=self.c.evaluation.neighborhood,
        )  # fmt: skip
        attributes = attribute_accuracy(images, self.pairs.parts, self.pairs.mentioned, self.nouns)
        best = min((float(row["kid_lite0"]) for row in self.table.before(step)), default=float("inf"))
        self.table.add(step, {"attribute_accuracy": attributes["mean"]} | {name: found[name] for name in METRICS})
        if found["kid_lite0"] < best:
            with publish(self.work / "best") as out:
                save_generator(generator.unet, out)

    @property
    def best(self) -> int:
        """The update whose generator is kept."""
        return int(min(self.table.rows, key=lambda row: float(row["kid_lite0"]))["update"])
