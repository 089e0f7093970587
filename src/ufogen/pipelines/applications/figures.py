"""Draw the figures of the applications: control by edges, image-to-image, interpolation, and their curves."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ufogen import config
from ufogen.applications.edges import edge_map, to_images
from ufogen.data.pairs import read_pairs
from ufogen.errors import UserError
from ufogen.figures.applications import application_curves
from ufogen.figures.samples import rows_of_samples
from ufogen.inference.api import UFOGen
from ufogen.pipelines.applications.paths import CONTROLLED, EDITED
from ufogen.pipelines.stage import ARTIFACTS, RESULTS, publish, run

FIGURES = Path("paper/applications")
FRAMES = 9
SHOWN = 6  # strengths of image-to-image, the source included


def main(c: config.Config) -> None:
    """Write paper/applications. Raises `UserError` where a result is not there yet."""
    try:
        with publish(FIGURES) as out:
            draw(c, out)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} not found: run `dvc repro pipelines/applications/dvc.yaml` first") from error


def draw(c: config.Config, out: Path) -> None:
    controlled, edited = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("control", "image_to_image"))
    columns = min(c.sampler.grid_prompts, c.applications.samples)
    floor = read_pairs(ARTIFACTS / "data" / "floor")
    sources = np.array(floor.images[:columns])
    shown = {"image": sources, "its edges,\nasked for": to_images(edge_map(sources))}
    drawn = controlled[controlled["method"] != "real"].itertuples()
    shown |= {_label(row): np.load(CONTROLLED / f"{row.method}-{row.control}.npy") for row in drawn}
    rows_of_samples(
        shown, floor.captions[:columns],
        f"Edges of an image and its caption; same noise in each row. The first {columns}, nothing is picked. "
        "The control networks were trained on the base and never saw UFOGen.",
        out / "control.png",
    )  # fmt: skip

    levels = edited.loc[edited["method"] == "ufogen", "strength"].tolist()
    chosen = [levels[i] for i in np.unique(np.linspace(0, len(levels) - 1, SHOWN).round().astype(int)) if i]
    pictures = {f"strength {s:g}": np.load(EDITED / f"ufogen-{s:.2f}.npy") for s in chosen}
    prompts = read_pairs(ARTIFACTS / "data" / "evaluation").captions[:columns]
    rows_of_samples(
        {"source": sources} | pictures, prompts,
        f"Image to image in one step of UFOGen, towards the prompt above. The first {columns}, nothing is picked.",
        out / "image_to_image.png",
    )  # fmt: skip

    rows_of_samples(
        interpolations(UFOGen.from_pretrained(ARTIFACTS / "ufogen", c.device)), [f"{i}/{FRAMES - 1}" for i in range(FRAMES)],
        "Each frame is one step of UFOGen. Noise goes along the great circle, token states along the line.",
        out / "interpolation.png",
    )  # fmt: skip
    application_curves(edited, controlled, out / "curves.png")


def interpolations(model: UFOGen) -> dict[str, np.ndarray]:
    """Rows of frames (FRAMES, h, w, 3): from seed to seed, from prompt to prompt, and both."""
    shark, melon = "a noun with a shark head", "a noun with a watermelon head"
    ways = {
        "seed 0 to 1,\nshark head": (shark, [0, 1]),
        "seed 2 to 3,\nred glasses": ("a noun with red square glasses", [2, 3]),
        "shark to\nwatermelon head,\nseed 0": ([shark, melon], 0),
        "both": ([shark, melon], [0, 1]),
    }
    return {label: _stack(model.interpolate(prompt, seed, FRAMES)) for label, (prompt, seed) in ways.items()}


def _label(row: NamedTuple) -> str:
    """Of a row of control.csv."""
    names = {"none": "no control", "controlnet": "ControlNet", "adapter": "T2I-Adapter"}
    method = "UFOGen" if row.method == "ufogen" else "base"
    return f"{method}, {row.steps} step{'s' * (row.steps > 1)}\n{names[row.control]}"


def _stack(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


if __name__ == "__main__":
    run(main)
