"""Gather the arms of the comparison: table, card, figures."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from ufogen import config
from ufogen.data.images import read_image_grid
from ufogen.data.pairs import read_pairs
from ufogen.errors import UserError
from ufogen.evaluation.evaluator import COLUMNS
from ufogen.figures.methods import quality_against_latency
from ufogen.figures.samples import rows_of_samples
from ufogen.pipelines.comparison.paths import ARMS, BASE, LATENCY, RUNS
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run, sha256, table, write_results

FIGURES = Path("paper/comparison")
ADDED = (  # to the columns of main.csv
    "network_evaluations", "updates", "training_images", "training_unet_evaluations", "training_seconds", "peak_memory_mib",
)  # fmt: skip
SOLVERS = {"ddim": "base, DDIM", "dpm++": "base, DPM++"}
BASE_SHOWN = (("dpm++", 25), ("dpm++", 4), ("dpm++", 1))  # on the sheet of samples, where they were sampled
DEFINITIONS = {
    "network_evaluations": "U-Net passes a picture; a guided step is two",
    "training_unet_evaluations": "forward passes of an item in training, the teacher's, the critic's and the target's included",
    "training_seconds": "of one thread, with `processes` arms side by side",
    "peak_memory_mib": "of the training process, or of its GPU",
    "seconds_per_image": "text to pixels, measured once for each sampler, number of steps and guidance",
}


def main(c: config.Config) -> None:
    """Write paper/results/comparison.csv, its card comparison.json, and paper/comparison.

    Raises `UserError` where a run or the base's measures are missing.
    """
    tree = OmegaConf.to_container(OmegaConf.load(ARMS))
    arms, latency = tree["arms"], json.loads(_read(LATENCY))
    seconds = {(row["sampler"], row["steps"], row["guidance"]): row["seconds_per_image"] for row in latency["rows"]}
    cards = [json.loads(_read(folder / "metrics.json")) for folder in (BASE, *(RUNS / name for name in tree["runs"]))]
    rows = [row | _latency(row, seconds) for card in cards for row in card["rows"]]
    card = {
        "definitions": DEFINITIONS,
        "arms": arms,
        "settings": config.to_dict(c.comparison),
        "guidance": c.sampler.guidance,
        "latency": {key: value for key, value in latency.items() if key != "rows"},
        "base": sha256(ARTIFACTS / "base" / "unet"),
        "feature_network": "EfficientNet-Lite0, ImageNet, 1280-d average pool",
        "reference_images": c.data.evaluation_size,
        "rows": json.loads(json.dumps(rows), parse_float=lambda number: float(f"{float(number):.6g}")),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "diffusers", "numpy")},
    }
    text = table(rows, [*COLUMNS, *ADDED])
    write_results(RESULTS, {"comparison.csv": text, "comparison.json": json.dumps(card, indent=1) + "\n"})
    names = SOLVERS | {name: arm["description"] for name, arm in arms.items()}
    prompts = read_pairs(ARTIFACTS / "data" / "evaluation").captions[: c.comparison.pictures]
    with publish(FIGURES) as out:
        quality_against_latency(pd.DataFrame(rows), names, out / "quality_against_latency.png")
        rows_of_samples(
            pictures(arms, names), prompts,
            f"Same prompts and same initial noise in each row; the first {len(prompts)} prompts, nothing is picked. "
            "Every method was trained from the same base with the same number of U-Net evaluations.",
            out / "samples.png",
        )  # fmt: skip
    print(text)


def pictures(arms: dict[str, dict], names: dict[str, str]) -> dict[str, np.ndarray]:
    """{label: images (n, h, w, 3)} of the base and of each arm's first seed, in its fewest steps and its most."""
    found = {}
    with np.load(BASE / "pictures.npz") as base:
        for solver, steps in BASE_SHOWN:
            if f"{solver}-{steps}" in base:
                found[_label(names[solver], steps)] = base[f"{solver}-{steps}"]
    for name, arm in arms.items():
        some = dict(zip(arm["steps"], read_image_grid(RUNS / f"{name}-0" / "pictures.png", len(arm["steps"])), strict=True))
        for steps in sorted({min(arm["steps"]), max(arm["steps"])}):
            found[_label(names[name], steps)] = some[steps]
    return found


def _label(name: str, steps: int) -> str:
    return f"{name}\n{steps} step{'s' * (steps > 1)}".replace(" distillation", "\ndistillation")


def _latency(row: dict, seconds: dict[tuple, float]) -> dict[str, float]:
    key = (row["sampler"], row["steps"], row["guidance"])
    return {"seconds_per_image": seconds[key]} if row["named"] == "all" and key in seconds else {}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise UserError(f"{path} not found: run `make comparison`") from error


if __name__ == "__main__":
    run(main)
