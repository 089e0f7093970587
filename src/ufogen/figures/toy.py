"""The toy in two dimensions: what the samples look like, and what each metric makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ufogen.figures.style import COLOURS, plt, save_figure
from ufogen.toy.mixture import CENTRES, HALF_BOX

METHODS = {
    "ddgan": ("DDGAN", COLOURS["dpm++"], "^"),
    "siddm": ("SIDDM", COLOURS["ddim"], "s"),
    "ufogen": ("UFOGen", COLOURS["ufogen"], "o"),
}
OTHERS = ("#8a5a9e", "#b8860b", "#5f6b73")  # for methods that only a YAML file knows
METRICS = {
    "modes": "modes of 25",
    "box_fraction": "share of samples in a mode's box",
    "mode_kl": "KL of the modes to uniform (nats)",
    "wasserstein_2": "Wasserstein-2 distance",
    "frechet": "Fréchet distance (two moments)",
}
LOGARITHMIC = ("mode_kl", "frechet")
LIMIT = 2.05  # of the panels of samples: the outermost modes lie at 1.41


def panels_of_samples(records: dict[str, dict[int, dict[int, np.ndarray]]], results: pd.DataFrame, path: Path) -> None:
    """A row a method, a column a number of trained steps T with 1 and with T sampling steps.

    records[method][T][steps]: samples (n, 2) of the first seed. The numbers in a panel are means over all seeds, from
    paper/results/toy.csv.
    """
    trained = sorted({t for arms in records.values() for t in arms})
    columns = [(t, n) for t in trained for n in sorted({1, t})]
    figure, axes = plt.subplots(
        len(records),
        len(columns),
        figsize=(1.42 * len(columns), 1.62 * len(records) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    means = results[results["seed"] == "mean"].set_index(["method", "trained_steps", "steps"])
    for row, (method, arms) in enumerate(records.items()):
        label, colour, _ = drawn_as(method, list(records))
        for column, (t, n) in enumerate(columns):
            axis = axes[row, column]
            axis.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], aspect="equal")
            axis.grid(False)
            axis.spines[:].set_visible(True)
            axis.spines[:].set_color("#cccccc")
            if row == 0:
                axis.set_title(f"T = {t}, {n} step{'s' * (n > 1)}", fontsize=8)
            if column == 0:
                axis.set_ylabel(label)
            if n not in arms.get(t, {}):
                continue
            size = 2 * HALF_BOX
            for x, y in CENTRES.tolist():
                axis.add_patch(plt.Rectangle((x - size / 2, y - size / 2), size, size, fill=False, lw=0.4, ec="#999999"))
            axis.scatter(*arms[t][n].T, s=1.2, color=colour, alpha=0.5, linewidths=0, rasterized=True)
            mean = means.loc[(method, t, n)]
            axis.set_xlabel(f"{mean['modes']:.3g} modes, {mean['box_fraction']:.0%} in box", fontsize=7)
    figure.supxlabel(
        "samples of the first seed; numbers are means over the seeds; squares are the boxes of the modes", fontsize=8
    )
    save_figure(figure, path)


def metrics_against_trained_steps(results: pd.DataFrame, path: Path) -> None:
    """Each metric against T, with one sampling step (solid) and with T (dashed). A dot is a seed, a line the mean."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.4), layout="constrained")
    for axis, metric in zip(axes.flat, METRICS, strict=False):
        for method, rows in _methods(results):
            _, colour, marker = drawn_as(method, list(dict.fromkeys(results["method"])))
            for style, chosen in (("-", rows[rows["steps"] == 1]), ("--", rows[rows["steps"] == rows["trained_steps"]])):
                _curve(axis, chosen, "trained_steps", metric, colour, marker, style)
        _dress(axis, results, metric, "trained denoising steps T")
    _legend(axes.flat[-1], results, {"1 sampling step": "-", "T sampling steps": "--"})
    save_figure(figure, path)


def metrics_against_sampling_steps(results: pd.DataFrame, path: Path, trained: int) -> None:
    """Each metric against the sampling steps of the arms trained with T = `trained` steps."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.4), layout="constrained")
    for axis, metric in zip(axes.flat, METRICS, strict=False):
        for method, rows in _methods(results):
            _, colour, marker = drawn_as(method, list(dict.fromkeys(results["method"])))
            _curve(axis, rows[rows["trained_steps"] == trained], "steps", metric, colour, marker, "-")
        _dress(axis, results, metric, f"sampling steps (trained with T = {trained})")
    _legend(axes.flat[-1], results, {})
    save_figure(figure, path)


def drawn_as(method: str, methods: list[str]) -> tuple[str, str, str]:
    """Label, colour and marker; a method that has no look of its own takes one by its place among the rest."""
    others = [name for name in methods if name not in METHODS and name != "data"]
    return METHODS[method] if method in METHODS else (method, OTHERS[others.index(method) % len(OTHERS)], "D")


def _methods(results: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for method in dict.fromkeys(results["method"]):
        if method != "data":
            yield method, results[results["method"] == method]


def _curve(axis: plt.Axes, rows: pd.DataFrame, x: str, metric: str, colour: str, marker: str, style: str) -> None:
    mean = rows[rows["seed"] == "mean"].sort_values(x)
    seeds = rows[rows["seed"] != "mean"]
    filled = colour if style == "-" else "white"
    axis.plot(mean[x], mean[metric], color=colour, ls=style, lw=1.5, marker=marker, ms=5, mfc=filled)
    axis.scatter(seeds[x], seeds[metric], s=7, color=colour, alpha=0.35, linewidths=0)


def _dress(axis: plt.Axes, results: pd.DataFrame, metric: str, label: str) -> None:
    real = results.loc[(results["method"] == "data") & (results["seed"] == "mean"), metric]
    if len(real):
        axis.axhline(real.iloc[0], color=COLOURS["real"], lw=1, ls=":")
    axis.set_title(METRICS[metric], loc="left")
    axis.set_xscale("log", base=2)
    values = sorted(results.loc[results["method"] != "data", "trained_steps"].unique())
    axis.set_xticks(values, [str(value) for value in values])
    axis.minorticks_off()
    axis.set_xlabel(label, fontsize=8)
    if metric in LOGARITHMIC:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(bottom=0)


def _legend(axis: plt.Axes, results: pd.DataFrame, styles: dict[str, str]) -> None:
    names = [method for method, _ in _methods(results)]
    handles = [Line2D([], [], color=c, marker=m, label=text) for text, c, m in (drawn_as(name, names) for name in names)]
    handles += [Line2D([], [], color="black", ls=style, label=text) for text, style in styles.items()]
    handles += [
        Line2D([], [], color="#777777", ls="", marker=".", label="a seed"),
        Line2D([], [], color=COLOURS["real"], ls=":", label="fresh data"),
    ]
    axis.set_axis_off()
    axis.legend(handles=handles, loc="center")
