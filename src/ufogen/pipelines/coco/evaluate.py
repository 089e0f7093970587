"""Measure the COCO samples of every method: FID, KID, CLIP scores and time."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ufogen import config
from ufogen.data.coco import Prompts, reference_files
from ufogen.data.coco import images as photographs
from ufogen.errors import UserError
from ufogen.evaluation import clip_score, coco, inception, shards
from ufogen.evaluation.latency import seconds_per_image
from ufogen.evaluation.sampler import Method, Sampler
from ufogen.pipelines.stage import RESULTS, run, sha256, table, write_results
from ufogen.training.loop import make_accelerator

PACKAGES = ("torch", "torch-fidelity", "diffusers", "transformers", "numpy", "pillow")


def main(c: config.Config) -> None:
    """Write paper/results/coco_SPLIT.csv, a row a method, and its card coco_SPLIT.json."""
    device = make_accelerator(c.device, c.coco.precision).device
    prompts, wanted = coco.prompts(c), coco.compared(c)
    sampler = coco.open_sampler(c, wanted, device)
    hashes = coco.weights(c, sampler)
    check_samples(c, sampler, hashes, prompts, wanted)
    weights = inception.weights_file(c.coco.inception_weights)
    network = inception.load(weights)
    real = reference_files(c.coco.folder, c.coco.split)
    batches = (real[i : i + c.coco.batch_size] for i in range(0, len(real), c.coco.batch_size))
    pictures = (photographs(paths, inception.SIZE, threads=c.threads) for paths in batches)
    reference = inception.extract(pictures, network, device)
    subset = min(c.evaluation.kid_subset_size, coco.size(c), len(real))
    rows = []
    for method in tqdm(wanted, desc="FID", mininterval=5):
        features = inception.extract(samples(c, method), network, device)
        found = inception.distances(
            features, reference, seed=c.seed, kid_subsets=c.evaluation.kid_subsets, kid_subset_size=subset
        )
        row = {"split": c.coco.split} | vars(method) | {"seed": c.seed, "n": len(features), "reference_n": len(real)}
        rows.append(row | found)
    networks = []
    for name in c.coco.clip:
        model, processor = clip_score.load(name)
        model.to(device)
        label = f"clip {Path(name).name}"
        for method, row in zip(wanted, tqdm(rows, desc=label, mininterval=5), strict=True):
            parts = (prompts.captions[block.start : block.stop] for block in coco.blocks(c))
            cosines = [
                clip_score.cosines(images, captions, model, processor)
                for images, captions in zip(samples(c, method), parts, strict=True)
            ]
            row[label] = float(np.concatenate(cosines).mean(dtype=np.float64))
        networks.append({"name": Path(name).name, "weights_sha256": clip_score.weights_sha256(model)})
        del model
    for method, row in zip(wanted, rows, strict=True):
        row["seconds_per_image"] = _seconds(c, sampler, method, prompts.captions)
    description = card(c, prompts, device, hashes) | {"rows": rows}
    description["fid"] |= {"weights_sha256": sha256(weights), "kid_subset_size": subset, "reference_images": len(real)}
    published = description["fid"]["weights_sha256"].startswith(inception.PUBLISHED)
    description["fid"]["published_weights"] = published
    description["clip"]["networks"] = networks
    text = table(rows)
    write_results(
        RESULTS,
        {f"coco_{c.coco.split}.csv": text, f"coco_{c.coco.split}.json": json.dumps(description, indent=1) + "\n"},
    )
    print(text)
    if not published:
        print(f"{weights} are not the published Inception weights: these FIDs compare with no published one")


def samples(c: config.Config, method: Method) -> Iterator[np.ndarray]:
    """The images of a method, shard by shard."""
    return (shards.read(coco.shard(c, method, block)) for block in coco.blocks(c))


def check_samples(c: config.Config, sampler: Sampler, hashes: dict, prompts: Prompts, wanted: list[Method]) -> None:
    """Raise `UserError` where a shard is missing or is of other weights, prompts or settings."""
    for method in wanted:
        done = []
        for block in coco.blocks(c):
            captions = prompts.captions[block.start : block.stop]
            run_id = coco.run_id(c, sampler, hashes, method, captions, block)
            done.append(shards.is_of(coco.shard(c, method, block), run_id))
        if not all(done):
            folder = coco.shard(c, method, coco.blocks(c)[0]).parent
            raise UserError(f"{folder} has {sum(done)} of {len(done)} shards of this run: run the stage sample again")


def card(c: config.Config, prompts: Prompts, device: torch.device, hashes: dict[str, str]) -> dict:
    """What a reader needs to trust or repeat the numbers."""
    return {
        "dataset": {
            "name": f"COCO {c.coco.split}", "prompts": len(prompts.captions), "seed": prompts.seed,
            "captions": "one of each image's captions, drawn by the seed", "annotations_sha256": prompts.annotations_sha256,
        },
        "fid": {
            "network": inception.NAME, "layer": inception.LAYER, "resize": inception.RESIZE,
            "reference": "all images of the split", "kid_subsets": c.evaluation.kid_subsets,
        },
        "clip": {"definition": clip_score.DEFINITION},
        "sampling": {
            "seed": c.seed, "guidance": c.coco.guidance, "precision": c.coco.precision, "batch_size": c.coco.batch_size,
            "weights_sha256": hashes,
        },
        "latency": {
            "batch_size": c.evaluation.latency_batch_size, "repeats": c.evaluation.latency_repeats,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU",
            "threads": torch.get_num_threads(),
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }  # fmt: skip


def _seconds(c: config.Config, sampler: Sampler, method: Method, captions: list[str]) -> float:
    """Text to pixels, encoding and decoding included."""
    e = c.evaluation

    def generate(n: int) -> np.ndarray:
        return coco.images(sampler, method, [captions[i % len(captions)] for i in range(n)], range(n), c.seed)

    return seconds_per_image(generate, e.latency_batch_size, e.latency_repeats, warmup=1)["median"]


if __name__ == "__main__":
    run(main)
