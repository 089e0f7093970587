"""Published FID against sampling steps and time, and ours on the same prompts where it has been measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ufogen.errors import UserError
from ufogen.figures.style import COLOURS, plt, save_figure

KEYS = ("method", "steps", "dataset", "metric", "value", "source", "certainty")
DATASET = "COCO-2017 5k"
LOOKS = {  # colour and marker
    "UFOGen": (COLOURS["ufogen"], "o"),
    "DPM-Solver": (COLOURS["dpm++"], "^"),
    "Progressive distillation": ("#5f6b73", "s"),
    "CFG-aware distillation": (COLOURS["ddim"], "D"),
    "InstaFlow-0.9B": ("#8a5a9e", "v"),
    "InstaFlow-1.7B": ("#b8860b", "<"),
    "ADD-M": (COLOURS["real"], "P"),
}
CAPTION = (
    "Hollow: published numbers, read in secondary sources (paper/published.yaml); {ours}.\n"
    "CLIP network, guidance and image preprocessing of the published rows are not known."
)


@dataclass(frozen=True)
class Published:
    """A published number."""

    method: str
    steps: int | None
    dataset: str
    metric: str  # FID, CLIP, or seconds an image on an A100
    value: float
    source: tuple[str, ...]
    certainty: str
    note: str = ""


def read(path: Path) -> list[Published]:
    """All rows of paper/published.yaml. Raises `UserError` where the file is damaged or a row lacks a key."""
    try:
        content = yaml.safe_load(path.read_text())
        rows = [Published(**row | {"source": tuple(row["source"])}) for row in content["rows"]]
        unknown = {name for row in rows for name in row.source} - set(content["sources"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; each row needs {', '.join(KEYS)}") from error
    if unknown:
        raise UserError(f"{path}: a row names the source {min(unknown)}, which is not in sources")
    return rows


def fid_against_steps_and_time(rows: list[Published], ours: pd.DataFrame | None, path: Path) -> None:
    """FID on COCO-2017 5k. `ours` are the rows of coco_val2017.json, or None while nothing comparable has been measured."""
    values = pd.DataFrame([vars(row) for row in rows if row.dataset == DATASET])
    table = values.pivot(index=["method", "steps"], columns="metric", values="value").reset_index()
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.0), sharey=True, layout="constrained")
    for name, (colour, marker) in LOOKS.items():
        chosen = table[table["method"] == name].sort_values("steps")
        for axis, x in zip(axes, ("steps", "seconds"), strict=True):
            known = chosen.dropna(subset=[x])
            axis.plot(known[x], known["FID"], color=colour, marker=marker, mfc="none", ms=7, lw=1.2, label=name)
    if ours is not None:
        for (method, sampler), chosen in ours.groupby(["method", "sampler"]):
            colour = COLOURS["ufogen" if method == "ufogen" else sampler]
            for axis, x in zip(axes, ("steps", "seconds_per_image"), strict=True):
                axis.plot(chosen[x], chosen["fid"], color=colour, marker="o", ms=6, lw=1.2, label=f"{method} {sampler}, ours")
    for axis, label in zip(axes, ("sampling steps", "seconds an image (published: A100)"), strict=True):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_xlabel(label)
    axes[0].xaxis.set_major_locator(FixedLocator(sorted(table["steps"].unique())))
    axes[1].xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.4, 0.8]))
    for axis in axes:
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0].set_title(f"FID on {DATASET} (lower is better)", loc="left")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    figure.supxlabel(CAPTION.format(ours="filled: ours" if ours is not None else "none is ours"), fontsize=8)
    save_figure(figure, path)
