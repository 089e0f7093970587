"""Measure control by edges: one-step UFOGen and the base, each without and with the same control networks."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ufogen import config
from ufogen.applications.control import KINDS, Control, ControlledUNet
from ufogen.applications.edges import THRESHOLD, edge_agreement, edge_map, to_condition
from ufogen.base.autoencoder import encode_images
from ufogen.base.loading import load_base, load_generator, load_part
from ufogen.base.text import Conditioning
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import read_pairs
from ufogen.evaluation import features
from ufogen.evaluation.evaluator import Evaluator
from ufogen.evaluation.sampler import Method, Sampler
from ufogen.pipelines.applications.paths import CONTROL, CONTROLLED
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run, sha256, table, write_results
from ufogen.precision import DTYPES
from ufogen.training.loop import make_accelerator

COLUMNS = (
    "method", "control", "steps", "guidance", "scale", "seed", "n", "edge_f1", "edge_precision", "edge_recall",
    "attribute_accuracy", "residual", "kid_lite0", "fd_lite0",
)  # fmt: skip
DEFINITIONS = {
    "edges": "a pixel that differs from its right or lower neighbour by at least the threshold in one channel",
    "edge_f1": "2 |both| / (|image's edges| + |asked edges|), pixel by pixel, mean over images",
    "residual": "root mean square distance to the nearest real character in grey levels, mean over images",
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

    @property
    def sampled(self) -> Method:
        return Method(self.method, "renoise" if self.method == "ufogen" else "ddim", self.steps, self.guidance)


def rows(c: config.Config) -> list[Row]:
    """UFOGen in one step and the base with guidance."""
    a = c.applications
    both = (("ufogen", 1, 0.0), ("base", a.base_steps, c.sampler.guidance))
    return [Row(method, control, steps, guidance) for method, steps, guidance in both for control in ("none", *KINDS)]


def main(c: config.Config) -> None:
    """Write paper/results/control.csv, its card control.json, and artifacts/control_samples."""
    with publish(CONTROLLED) as out:
        measured = measure_all(c, "floor", "evaluation", out)
    card = {
        "rows": measured, "gain": gains(measured), "definitions": DEFINITIONS, "threshold": THRESHOLD,
        "precision": c.sampler.precision,
        "training": {kind: json.loads((CONTROL / kind / "card.json").read_text()) for kind in KINDS},
        "sha256": {kind: sha256(CONTROL / kind) for kind in KINDS} | {"generator": sha256(ARTIFACTS / "train" / "unet")},
    }  # fmt: skip
    write_results(RESULTS, {"control.csv": table(measured, COLUMNS), "control.json": json.dumps(card, indent=1) + "\n"})
    print(json.dumps(card["gain"], indent=1))


def measure_all(c: config.Config, asked: str, reference: str, out) -> list[dict]:
    """A row a method: images for the captions and the edges of the set `asked`, KID against the set `reference`."""
    device = make_accelerator(c.device, "no").device
    pairs = read_pairs(ARTIFACTS / "data" / asked)[: min(c.applications.samples, c.data.evaluation_size)]
    images = np.array(pairs.images)
    edges = edge_map(images)
    evaluator = Evaluator(
        features.extract(np.array(read_pairs(ARTIFACTS / "data" / reference).images), device=device),
        Nouns.load(c.data.node_modules), device,
        seed=c.seed, neighborhood=c.evaluation.neighborhood, kid_subsets=c.evaluation.kid_subsets,
    )  # fmt: skip
    trained = load_generator(ARTIFACTS / "train", "the trained generator")
    sampler = Sampler.load(load_base(ARTIFACTS / "base"), trained, device, DTYPES[c.sampler.precision])
    networks = {kind: load_control(kind, sampler) for kind in KINDS}
    text = sampler.encode(pairs.captions)
    measured = []

    def measure(row: Row, images: np.ndarray) -> None:
        np.save(out / f"{row.name}.npy", images)
        found = edge_agreement(images, edges) | evaluator(images, pairs)
        scale = c.applications.scale if row.control in KINDS else 0.0
        measured.append(vars(row) | {"scale": scale, "seed": c.seed, "n": len(pairs)} | found)

    for row in tqdm(rows(c), desc="control", mininterval=5):
        measure(row, sample(c, sampler, row, networks.get(row.control), text, edges))
    measure(Row("real", "autoencoder", 0, 0.0), sampler.decode(encode_images(images, sampler.base.vae)))
    return measured


def load_control(kind: str, sampler: Sampler) -> Control:
    dtype = sampler.base.unet.dtype
    return load_part(KINDS[kind], CONTROL / kind, f"the trained {kind}", dtype).to(sampler.device)


def sample(
    c: config.Config, sampler: Sampler, row: Row, control: Control | None, text: Conditioning, edges: np.ndarray
) -> np.ndarray:
    """Images of one row, (n, h, w, 3) uint8; every row has the same noise."""
    if control is None:
        return sampler.sample(row.sampled, text, c.sampler.batch_size, c.seed)
    images = []
    for rows, noise, fresh in sampler.blocks(len(text), c.sampler.batch_size, c.seed):
        unet = sampler.generator.unet if row.method == "ufogen" else sampler.base.unet
        network = ControlledUNet(unet, control, to_condition(edges[rows], sampler.device), c.applications.scale)
        network = sampler.denoiser(network) if row.method == "ufogen" else network
        images.append(sampler.images(row.sampled, noise, text[rows], fresh, network))
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
