"""Measure image-to-image in one step against strength: how far from the source, how much of the new prompt."""

from __future__ import annotations

import json

import numpy as np
import torch
from tqdm import tqdm

from ufogen import config
from ufogen.applications.image_to_image import edit_latents, feature_distance, mean_squared_error, strength_timestep
from ufogen.base.autoencoder import decode_latents, encode_images
from ufogen.data.nouns import Nouns
from ufogen.diffusion.networks import Generator
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.files import csv_text
from ufogen.inference.export import refuse_sdxl
from ufogen.pipelines.main.prepare import read_pairs
from ufogen.pipelines.main.sample import Samplers
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run, sha256, write_results
from ufogen.training.loop import make_accelerator

SAMPLES = ARTIFACTS / "image_to_image"
COLUMNS = ("method", "strength", "timestep", "seed", "n", "mse", "feature_distance", "attribute_accuracy")
DEFINITIONS = {
    "sources": "images of the set floor; the new prompts are the captions of the set evaluation",
    "mse": "mean squared difference from the source, over pixels and channels in [0, 1]",
    "feature_distance": "Euclidean distance of Lite0 features from the source's, as a share of that between two sources",
    "attribute_accuracy": "share of the parts named by the new prompt that the image shows",
    "real": "the images that the new prompts were written for: unrelated to the sources",
}


def strengths(c: config.Config) -> list[float]:
    """0, which is the autoencoder alone, to 1 in equal steps."""
    count = c.applications.strengths
    return [i / count for i in range(count + 1)]


def main(c: config.Config) -> None:
    """Write paper/results/image_to_image.csv, its card, and artifacts/image_to_image."""
    device = make_accelerator(c.device, "no").device
    samplers = Samplers(c, device)
    refuse_sdxl(samplers.base, "the evaluation of image-to-image")
    base, nouns = samplers.base, Nouns.load(c.data.node_modules)
    n = min(c.applications.samples, c.data.evaluation_size)
    sources = np.array(read_pairs(ARTIFACTS / "data" / "floor").images[:n])
    asked = read_pairs(ARTIFACTS / "data" / "evaluation")
    latents, prompt_embeds = encode_images(sources, base.vae), samplers.encode(asked.captions[:n]).prompt_embeds
    noise = torch.cat([samplers.noise(min(c.sampler.batch_size, n - i), b) for b, i in enumerate(_starts(c, n))])
    of_sources = features.extract(sources, device=device)
    table = []

    def measure(method: str, strength: float | None, images: np.ndarray) -> None:
        t = None if strength is None else strength_timestep(strength, samplers.schedule.num_timesteps)
        table.append({
            "method": method, "strength": strength, "timestep": t,
            "seed": c.seed, "n": n, "mse": mean_squared_error(images, sources),
            "feature_distance": feature_distance(features.extract(images, device=device), of_sources),
            "attribute_accuracy": attribute_accuracy(images, asked.parts[:n], asked.mentioned[:n], nouns)["mean"],
        })  # fmt: skip

    generators = {
        "ufogen": samplers.generator,
        "base in one step": Generator(base.unet, samplers.schedule, base.scheduler.config.prediction_type),
    }
    with publish(SAMPLES) as out:
        for method, generator in generators.items():
            for strength in tqdm(strengths(c), desc=method, mininterval=5):
                parts = [slice(start, start + c.sampler.batch_size) for start in _starts(c, n)]
                edited = [
                    edit_latents(generator, latents[p], noise[p], prompt_embeds[p], samplers.schedule, strength) for p in parts
                ]
                images = np.concatenate([decode_latents(part, base.vae) for part in edited])
                measure(method, strength, images)
                np.save(out / f"{method.split()[0]}-{strength:.2f}.npy", images)
    measure("real", None, np.array(asked.images[:n]))

    text = csv_text(COLUMNS, ({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in table))
    card = {
        "rows": table, "definitions": DEFINITIONS, "precision": c.sampler.precision,
        "sha256": {"generator": sha256(ARTIFACTS / "train" / "unet")},
    }  # fmt: skip
    write_results(RESULTS, {"image_to_image.csv": text, "image_to_image.json": json.dumps(card, indent=1) + "\n"})


def _starts(c: config.Config, n: int) -> range:
    return range(0, n, c.sampler.batch_size)


if __name__ == "__main__":
    run(main)
