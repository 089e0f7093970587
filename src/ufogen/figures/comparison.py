"""Quality of UFOGen and of its base against sampling steps, time, and what captions leave open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ufogen.evaluation.coverage import expected_distinct, part_shares
from ufogen.figures.style import COLOURS, plain_ticks, plt, save_figure

# (method, sampler): label, colour, marker and where the number of steps stands beside a point (points)
SERIES = {
    ("ufogen", "renoise"): ("UFOGen", COLOURS["ufogen"], "o", (0, -14)),
    ("further", "renoise"): ("UFOGen trained further", COLOURS["further"], "D", (0, -14)),
    ("base", "ddim"): ("base, DDIM", COLOURS["ddim"], "s", (0, 7)),
    ("base", "dpm++"): ("base, DPM++", COLOURS["dpm++"], "^", (0, -14)),
}
FLOORS = {  # what a perfect generator would reach: a second real set, as it is and through the autoencoder
    "none": ("real images", "--"),
    "autoencoder": ("real images through the autoencoder", ":"),
}
METRICS = {
    "kid_lite0": "KID-Lite0 (lower is better)",
    "fd_lite0": "FD-Lite0 (lower is better)",
    "residual": "distance to real characters, grey levels",
    "attribute_accuracy": "attribute accuracy (higher is better)",
}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}


def quality_against_steps(results: pd.DataFrame, path: Path) -> None:
    """One panel for each metric that there is, from paper/results/main.csv."""
    results = of_all_images(results)
    metrics = {metric: title for metric, title in METRICS.items() if results[metric].notna().any()}
    rows_of_panels = -(-len(metrics) // 2)
    figure, axes = plt.subplots(rows_of_panels, 2, figsize=(7.6, 3 * rows_of_panels), layout="constrained", squeeze=False)
    for axis, (metric, title) in zip(axes.flat, metrics.items(), strict=False):
        for rows, (label, colour, marker, _) in _series(results):
            axis.plot(rows["steps"], rows[metric], color=colour, marker=marker, ms=6, lw=1.6, label=label)
        _floors(axis, results, metric)
        _scale(axis, results, metric)
        steps = sorted(results.loc[results["method"] != "real", "steps"].unique())
        axis.set_xscale("log", base=2)
        if steps:
            axis.set_xlim(steps[0] / 1.25, steps[-1] * 1.25)
            axis.set_xticks(steps, [f"{step:g}" for step in steps])
        axis.xaxis.minorticks_off()
        axis.set_title(title, loc="left")
    passes = " (a step of the guided base is two passes)" if (results["guidance"] > 1).any() else ""
    figure.supxlabel(f"sampling steps{passes}", fontsize=9)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    _legend(figure, axes[0, 0], columns=3)
    save_figure(figure, path)


def quality_against_time(results: pd.DataFrame, path: Path) -> None:
    """KID-Lite0 against seconds an image, text to pixels; a number beside a point is its sampling steps."""
    results = of_all_images(results)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for rows, (label, colour, marker, offset) in _series(results.dropna(subset=["seconds_per_image"])):
        axis.plot(rows["seconds_per_image"], rows["kid_lite0"], color=colour, marker=marker, ms=6, lw=1.2, label=label)
        for row in rows.itertuples():
            axis.annotate(
                f"{row.steps:g}", (row.seconds_per_image, row.kid_lite0), offset, textcoords="offset points",
                ha="center", fontsize=8, color=colour,
            )  # fmt: skip
    _floors(axis, results, "kid_lite0")
    _scale(axis, results, "kid_lite0")
    axis.set_xscale("log")
    axis.margins(x=0.08)
    plain_ticks(axis.xaxis)
    axis.set_xlabel("seconds an image, text to pixels (numbers: sampling steps)")
    axis.set_title(METRICS["kid_lite0"], loc="left")
    _legend(figure, axis, columns=2)
    save_figure(figure, path)


def quality_against_openness(results: pd.DataFrame, path: Path) -> None:
    """UFOGen in one step and the base in its most, by how many attributes captions name: the fewer, the more is open."""
    results = results.assign(
        head_share=[_head_share(*row) for row in results[["distinct_open_heads", "open_heads"]].to_numpy()]
    )
    some = results[results["named"] != "all"].assign(named=lambda rows: pd.to_numeric(rows["named"]))
    slowest = some[some["method"] == "base"].sort_values("steps", kind="stable")[["method", "sampler", "steps"]].tail(1)
    ours = [(method, sampler, 1) for method, sampler in SERIES if method != "base" and (some["method"] == method).any()]
    chosen = [*ours, *slowest.itertuples(index=False, name=None)]
    metrics = [metric for metric in ("residual", "head_share", "kid_lite0") if some[metric].notna().any()]
    figure, axes = plt.subplots(1, len(metrics), figsize=(3.4 * len(metrics), 3.2), layout="constrained", squeeze=False)
    for axis, metric in zip(axes.flat, metrics, strict=True):
        for method, sampler, steps in chosen:
            rows = some[(some["method"] == method) & (some["sampler"] == sampler) & (some["steps"] == steps)]
            rows = rows.dropna(subset=[metric]).sort_values("named")
            name, colour, marker, _ = SERIES[method, sampler]
            label = f"{name}, {steps:g} step" + "s" * (steps != 1)
            axis.plot(rows["named"], rows[metric], color=colour, marker=marker, ms=6, lw=1.6, label=label)
        _floors(axis, of_all_images(results), metric)
        axis.set_ylim(bottom=min(0, 2 * results[metric].min()))
        numbers = sorted(some["named"].unique())
        axis.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.3)
        axis.set_xticks(numbers, [NUMBERS[number] for number in numbers])
        axis.set_title((METRICS | {"head_share": "distinct open heads, share of real images'"})[metric], loc="left")
    figure.supxlabel("attributes, of five, that the caption names", fontsize=9)
    _legend(figure, axes[0, 0], columns=2 if len(metrics) == 1 else 4)
    save_figure(figure, path)


def _head_share(found: float, images: float) -> float:
    """How many open heads the images show, by how many as many real ones show on average; NaN where no head is open."""
    return found / expected_distinct(part_shares("head"), int(images)) if images > 0 else float("nan")


def of_all_images(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that count every image, not those of some captions alone."""
    return results[results["named"] == "all"]


def _series(results: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, tuple]]:
    for (method, sampler), look in SERIES.items():
        rows = results[(results["method"] == method) & (results["sampler"] == sampler)]
        if len(rows):
            yield rows.sort_values("steps"), look


def _floors(axis: plt.Axes, results: pd.DataFrame, metric: str) -> None:
    real = results[results["method"] == "real"].set_index("sampler")[metric].dropna()
    for sampler, (label, style) in FLOORS.items():
        if sampler in real:
            axis.axhline(real[sampler], color=COLOURS["real"], lw=1.4, ls=style, label=label)


def _scale(axis: plt.Axes, results: pd.DataFrame, metric: str) -> None:
    """Distances span decades. KID is unbiased and may be 0 or less for real images: then the axis is linear below
    the lowest value of anything else."""
    if metric in ("attribute_accuracy", "residual"):
        axis.set_ylim(0, 1.04 if metric == "attribute_accuracy" else None)
        return
    axis.margins(y=0.12)
    lowest = results[metric].min()
    threshold = results[metric][(results[metric] > 0) & (results["sampler"] != "none")].min()
    if lowest >= threshold / 30:
        axis.set_yscale("log")
        plain_ticks(axis.yaxis)
    elif threshold > 0:
        axis.set_yscale("symlog", linthresh=threshold)
        axis.set_ylim(bottom=min(-threshold / 2, 2 * lowest))


def _legend(figure: plt.Figure, axis: plt.Axes, columns: int = 5) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.4)
