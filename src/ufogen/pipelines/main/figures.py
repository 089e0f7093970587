"""Draw every figure from the samples, the training's curves and the table of results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ufogen import config
from ufogen.data.images import SCALE
from ufogen.data.pairs import read_output, read_pairs
from ufogen.errors import UserError
from ufogen.evaluation.sampler import Method
from ufogen.figures.comparison import quality_against_openness, quality_against_steps, quality_against_time
from ufogen.figures.curves import training_curves
from ufogen.figures.samples import one_step_samples, rows_of_samples
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run

FIGURES = Path("paper/figures")
UPDATES_SHOWN = 6
SAMPLER_NAMES = {"renoise": "UFOGen", "ddim": "base, DDIM", "dpm++": "base, DPM++"}
STEPS_SHOWN = {"ddim": {1, 4, 25}, "dpm++": {25}, "renoise": {1, 4}}


def main(c: config.Config) -> None:
    """Write paper/figures. Raises `UserError` that names a missing or damaged input and the stage that makes it."""
    results = read_output(RESULTS / "main.csv", "evaluate", pd.read_csv)
    with publish(FIGURES) as out:
        of_samples(c, ARTIFACTS / "samples", out)
        of_training(c, ARTIFACTS / "train", out)
        quality_against_steps(results, out / "quality_against_steps.png")
        quality_against_time(results, out / "quality_against_time.png")
        if (results["named"] != "all").any():  # what a caption leaves open is known of Nouns
            quality_against_openness(results, out / "quality_against_openness.png")
    print(f"wrote {len(list(FIGURES.glob('*.png')))} figures to {FIGURES}")


def of_samples(c: config.Config, samples: Path, out: Path) -> None:
    """Sheets of what the stage sample left: one-step samples, and every sampler from the same noise."""
    pairs = read_pairs(ARTIFACTS / "data" / "evaluation")
    card = read_output(samples / "card.json", "sample", lambda path: json.loads(path.read_text()))
    prompts = pairs.captions[: c.sampler.grid_prompts]

    def images(method: Method) -> np.ndarray:
        path = samples / "evaluation" / f"{method.name}.npy"
        return read_output(path, "sample", lambda path: np.load(path, mmap_mode="r"))

    one_step_samples(images(Method("ufogen", "renoise", 1, 0.0)), pairs.captions, out / "one_step_samples.png")
    rows_of_samples(
        {_label(method): images(method) for method in _shown([Method(**entry) for entry in card])}
        | {"real image": pairs.images},
        prompts,
        f"Same prompts and same initial noise in each row; the first {len(prompts)} prompts, nothing is picked. "
        "A caption leaves most of an image open: the real one is an example.",
        out / "base_against_ufogen.png",
    )


def of_training(c: config.Config, train: Path, out: Path) -> None:
    """The curves that the stage train left, and its samples from fixed noise."""
    log, validation = (read_output(train / f"{name}.csv", "train", pd.read_csv) for name in ("curves", "validation"))
    training_curves(log.merge(validation, how="outer", on="update"), out / "curves.png")
    rows_of_samples(
        _progress(train / "samples", c.sampler.grid_prompts),
        read_pairs(ARTIFACTS / "data" / "validation").captions[: c.sampler.grid_prompts],
        "One-step samples from the same noise during training, by the averaged weights; at update 0 those it starts from.",
        out / "training_progress.png",
    )


def _shown(methods: list[Method]) -> list[Method]:
    """Of each sampler the steps in `STEPS_SHOWN` and its most; the base's first."""
    shown = []
    for sampler, wanted in STEPS_SHOWN.items():
        some = sorted((method for method in methods if method.sampler == sampler), key=lambda method: method.steps)
        shown += [method for method in some if method.steps in wanted or method is some[-1]]
    return shown


def _label(method: Method) -> str:
    steps = f"{method.steps} step" + "s" * (method.steps > 1)
    guidance = f"guidance {method.guidance:g}" if method.guidance > 1 else "no guidance"
    return f"{SAMPLER_NAMES[method.sampler]}\n{steps}\n{guidance}"


def _progress(folder: Path, columns: int) -> dict[str, np.ndarray]:
    """The first row of several of the sheets that the stage train writes."""
    paths = sorted(folder.glob("[!.]*.png"))
    if not paths:
        raise UserError(f"{folder}/*.png not found: run the stage train first (dvc repro train)")
    chosen = np.unique(np.linspace(0, len(paths) - 1, UPDATES_SHOWN).round().astype(int))
    rows = {}
    for path in (paths[i] for i in chosen):
        sheet = read_output(path, "train", lambda path: np.asarray(Image.open(path).convert("RGB")))[::SCALE, ::SCALE]
        size = sheet.shape[1] // columns
        rows[f"update {int(path.stem)}"] = sheet[:size].reshape(size, columns, size, 3).swapaxes(0, 1)
    return rows


if __name__ == "__main__":
    run(main)
