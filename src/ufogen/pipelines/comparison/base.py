"""Measure the base by its solvers, and real images through the autoencoder, as the arms are measured."""

from __future__ import annotations

import json

import numpy as np
from tqdm import tqdm

from ufogen import config
from ufogen.base.autoencoder import encode_images
from ufogen.base.loading import load_base
from ufogen.data.pairs import read_pairs
from ufogen.evaluation.sampler import Sampler, methods
from ufogen.pipelines.comparison.paths import BASE
from ufogen.pipelines.comparison.prompts import Prompts
from ufogen.pipelines.stage import ARTIFACTS, publish, run
from ufogen.training.loop import make_accelerator


def main(c: config.Config) -> None:
    """Write artifacts/comparison/base: metrics.json and pictures.npz. Its noise is that of the arms' first seed."""
    device, s = make_accelerator(c.device, "no").device, c.sampler
    base = load_base(ARTIFACTS / "base").to(device)
    sampler, prompts, rows, pictures = Sampler(base, device), Prompts(c, device), [], {}
    compared = methods(s.base_solvers, s.ufogen_steps, s.base_steps, s.guidance, "sampler.base_solvers")
    for method in tqdm(compared, desc="base", mininterval=5):
        found, images = prompts.measure(sampler, method, seed=0)
        rows += found
        pictures[f"{method.sampler}-{method.steps}"] = images[: c.comparison.pictures]

    def through(images: np.ndarray) -> np.ndarray:
        return sampler.decode(encode_images(np.array(images), base.vae))

    floor = read_pairs(ARTIFACTS / "data" / "floor")[: c.comparison.evaluation_size]
    real = {"method": "real", "sampler": "autoencoder", "steps": 0, "guidance": 0.0, "seed": 0}
    rows += prompts.rows(real, through(floor.images), floor, through(prompts.heldout.images))
    with publish(BASE) as out:
        np.savez(out / "pictures.npz", **pictures)
        (out / "metrics.json").write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    run(main)
