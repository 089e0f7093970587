"""Measure control by edges: one-step UFOGen and the base, each without and with the same control networks."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ufogen import config
from ufogen.applications.control import KINDS, Control, ControlledUNet
from ufogen.applications.edges import THRESHOLD, edge_agreement, edge_map, to_condition
from ufogen.base.autoencoder import decode_latents, encode_images
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_base, sample_generator
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.fidelity import fidelity
from ufogen.files import csv_text
from ufogen.pipelines.applications.control_train import CONTROL
from ufogen.pipelines.main.evaluate import formatted
from ufogen.pipelines.main.prepare import read_pairs
from ufogen.pipelines.main.sample import Samplers
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run, sha256, write_results
from ufogen.training.loop import make_accelerator

SAMPLES = ARTIFACTS / "control_samples"
COLUMNS = (
    "method", "control", "steps", "guidance", "scale", "seed", "n", "edge_f1", "edge_precision", "edge_recall",
    "attribute_accuracy", "kid_lite0", "fd_lite0",
)  # fmt: skip
DEFINITIONS = {
    "edges": "a pixel that differs from its right or lower neighbour by at least the threshold in one channel",
    "edge_f1": "2 |both| / (|image's edges| + |asked edges|), pixel by pixel, mean over images",
    "kid_lite0": "against the reference images of the evaluation prompts; subsets of half of the n images",
    "gain": "edge_f1 with control less edge_f1 without, same prompts and noise",
    "share_of_base_gain": "gain of one-step UFOGen over the base's; the demand is 0.5",
}


@dataclass(frozen=True)
class Row:
    """A row of the comparison; the control is none, controlnet or adapter."""

    method: str
    control: str
    steps: int
    guidance: float

    @property
    def name(self) -> str:
        return f"{self.method}-{self.control}"


def rows(c: config.Config) -> list[Row]:
    """UFOGen in one step and the base with guidance."""
    a = c.applications
    both = (("ufogen", 1, 0.0), ("base", a.base_steps, c.sampler.guidance))
    return [Row(method, control, steps, guidance) for method, steps, guidance in both for control in ("none", *KINDS)]


def main(c: config.Config) -> None:
    """Write paper/results/control.csv, its card control.json, and artifacts/control_samples."""
    with publish(SAMPLES) as out:
        table = measure_all(c, "floor", "evaluation", out)
    text = csv_text(COLUMNS, ({key: formatted(row[key]) for key in COLUMNS} for row in table))
    card = {
        "rows": table, "gain": gains(table), "definitions": DEFINITIONS, "threshold": THRESHOLD,
        "precision": c.sampler.precision,
        "training": {kind: json.loads((CONTROL / kind / "card.json").read_text()) for kind in KINDS},
        "sha256": {kind: sha256(CONTROL / kind) for kind in KINDS} | {"generator": sha256(ARTIFACTS / "train" / "unet")},
    }  # fmt: skip
    write_results(RESULTS, {"control.csv": text, "control.json": json.dumps(card, indent=1) + "\n"})
    print(json.dumps(card["gain"], indent=1))


def measure_all(c: config.Config, asked: str, reference: str, out) -> list[dict]:
    """A row a method: images for the captions and the edges of the set `asked`, KID against the set `reference`."""
    device = make_accelerator(c.device, "no").device
    nouns, n = Nouns.load(c.data.node_modules), min(c.applications.samples, c.data.evaluation_size)
    whole = read_pairs(ARTIFACTS / "data" / asked)
    pairs = Pairs(np.array(whole.images[:n]), whole.captions[:n], whole.parts[:n], whole.mentioned[:n])
    edges = edge_map(pairs.images)
    real = features.extract(np.array(read_pairs(ARTIFACTS / "data" / reference).images), device=device)
    samplers = Samplers(c, device)
    networks = {kind: load_control(kind, samplers) for kind in KINDS}
    prompt_embeds = samplers.encode(pairs.captions).prompt_embeds
    table = []

    def measure(row: Row, images: np.ndarray) -> None:
        np.save(out / f"{row.name}.npy", images)
        quality = fidelity(
            features.extract(images, device=device), real, seed=c.seed, kid_subsets=c.evaluation.kid_subsets,
            kid_subset_size=max(n // 2, 2), neighborhood=c.evaluation.neighborhood,
        )  # fmt: skip
        attributes = attribute_accuracy(images, pairs.parts, pairs.mentioned, nouns)["mean"]
        found = edge_agreement(images, edges) | quality | {"attribute_accuracy": attributes}
        scale = c.applications.scale if row.control in KINDS else 0.0
        table.append(vars(row) | {"scale": scale, "seed": c.seed, "n": n} | found)

    for row in tqdm(rows(c), desc="control", mininterval=5):
        measure(row, sample(c, samplers, row, networks.get(row.control), prompt_embeds, edges))
    measure(
        Row("real", "autoencoder", 0, 0.0), decode_latents(encode_images(pairs.images, samplers.base.vae), samplers.base.vae)
    )
    return table


def load_control(kind: str, samplers: Samplers) -> Control:
    dtype = samplers.base.unet.dtype
    return KINDS[kind].from_pretrained(CONTROL / kind, local_files_only=True).to(samplers.device, dtype).eval()


@torch.no_grad()
def sample(
    c: config.Config, samplers: Samplers, row: Row, control: Control | None, prompt_embeds: Tensor, edges: np.ndarray
) -> np.ndarray:
    """Images of one row, (n, h, w, 3) uint8; every row has the same noise."""
    images, size = [], c.sampler.batch_size
    unet = samplers.generator.unet if row.method == "ufogen" else samplers.base.unet
    for block, start in enumerate(range(0, len(prompt_embeds), size)):
        some = prompt_embeds[start : start + size]
        noise = samplers.noise(len(some), block)
        network = unet
        if control is not None:
            condition = to_condition(edges[start : start + size], samplers.device)
            network = ControlledUNet(unet, control, condition, c.applications.scale)
        scheduler = samplers.base.scheduler.config
        if row.method == "ufogen":
            generator = Generator(network, samplers.schedule, scheduler.prediction_type)
            latents = sample_generator(generator, noise, some, samplers.schedule, row.steps)
        else:
            latents = sample_base(network, noise, some, samplers.empty.prompt_embeds[0], scheduler, row.steps, row.guidance)
        images.append(decode_latents(latents, samplers.base.vae))
    return np.concatenate(images)


def gains(table: list[dict]) -> dict[str, dict[str, float]]:
    """For each control network the gain in edge agreement of both methods, and UFOGen's share of the base's."""
    found = {(row["method"], row["control"]): row["edge_f1"] for row in table}
    result = {}
    for kind in KINDS:
        ufogen, base = (found[method, kind] - found[method, "none"] for method in ("ufogen", "base"))
        result[kind] = {"ufogen": ufogen, "base": base, "share_of_base_gain": ufogen / base if base else 0.0}
    return result


if __name__ == "__main__":
    run(main)
