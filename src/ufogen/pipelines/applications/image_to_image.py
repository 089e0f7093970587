"""Measure image-to-image in one step against strength: how far from the source, how much of the new prompt."""

from __future__ import annotations

import json

import numpy as np
import torch
from tqdm import tqdm

from ufogen import config
from ufogen.applications.image_to_image import edit_latents, feature_distance, mean_squared_error, strength_timestep
from ufogen.base.autoencoder import encode_images
from ufogen.base.loading import load_base, load_generator
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import read_pairs
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.sampler import Sampler
from ufogen.inference.export import refuse_sdxl
from ufogen.pipelines.applications.paths import EDITED
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run, sha256, table, write_results
from ufogen.precision import DTYPES
from ufogen.training.loop import make_accelerator

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
    trained = load_generator(ARTIFACTS / "train", "the trained generator")
    sampler = Sampler.load(load_base(ARTIFACTS / "base"), trained, device, DTYPES[c.sampler.precision])
    base, nouns = sampler.base, Nouns.load(c.data.node_modules)
    refuse_sdxl(base, "the evaluation of image-to-image")
    n = min(c.applications.samples, c.data.evaluation_size)
    sources = np.array(read_pairs(ARTIFACTS / "data" / "floor").images[:n])
    asked = read_pairs(ARTIFACTS / "data" / "evaluation")[:n]
    latents, prompt_embeds = encode_images(sources, base.vae), sampler.encode(asked.captions).prompt_embeds
    parts, noises = zip(*((rows, noise) for rows, noise, _ in sampler.blocks(n, c.sampler.batch_size, c.seed)), strict=True)
    noise = torch.cat(noises)
    of_sources = features.extract(sources, device=device)
    measured = []

    def measure(method: str, strength: float | None, images: np.ndarray) -> None:
        t = None if strength is None else strength_timestep(strength, sampler.schedule.num_timesteps)
        measured.append({
            "method": method, "strength": strength, "timestep": t,
            "seed": c.seed, "n": n, "mse": mean_squared_error(images, sources),
            "feature_distance": feature_distance(features.extract(images, device=device), of_sources),
            "attribute_accuracy": attribute_accuracy(images, asked.parts, asked.mentioned, nouns)["mean"],
        })  # fmt: skip

    generators = {"ufogen": sampler.generator, "base in one step": sampler.denoiser(base.unet)}
    with publish(EDITED) as out:
        for method, generator in generators.items():
            for strength in tqdm(strengths(c), desc=method, mininterval=5):
                edited = [
                    edit_latents(generator, latents[p], noise[p], prompt_embeds[p], sampler.schedule, strength) for p in parts
                ]
                images = np.concatenate([sampler.decode(part) for part in edited])
                measure(method, strength, images)
                np.save(out / f"{method.split()[0]}-{strength:.2f}.npy", images)
    measure("real", None, np.array(asked.images))

    card = {
        "rows": measured, "definitions": DEFINITIONS, "precision": c.sampler.precision,
        "sha256": {"generator": sha256(ARTIFACTS / "train" / "unet")},
    }  # fmt: skip
    text = table(measured, COLUMNS)
    write_results(RESULTS, {"image_to_image.csv": text, "image_to_image.json": json.dumps(card, indent=1) + "\n"})


if __name__ == "__main__":
    run(main)
