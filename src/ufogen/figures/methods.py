"""Quality of every method of the comparison against its latency, with the methods that no other beats in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ufogen.figures.style import COLOURS, plain_ticks, plt, save_figure

METRICS = {
    "residual": "distance to real characters, grey levels (lower is better)",
    "kid_lite0": "KID-Lite0 (lower is better)",
}
FIXED = {"ufogen": COLOURS["ufogen"], "ddim": COLOURS["ddim"], "dpm++": COLOURS["dpm++"]}
FURTHER = ("#8a5a9e", "#b8860b", "#5f6b73", "#d2691e", "#2f8f9d", "#9c4f6e")  # in the order of the arms
MARKERS = "osDv<P>^X*"


def pareto_front(points: np.ndarray) -> np.ndarray:
    """(n,) bool: which of the points (n, 2) no other is at most as great in both numbers and smaller in one."""
    no_greater = (points[None, :, :] <= points[:, None, :]).all(-1)  # (i, j): j is at most as great as i in both
    smaller = (points[None, :, :] < points[:, None, :]).any(-1)
    return ~(no_greater & smaller).any(axis=1)


def mean_over_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """A row a method and number of steps: the mean of both metrics over seeds, and their lowest and highest.

    A method is an arm, or a solver of the base. Rows that count some captions alone, and real images, are left out.
    """
    some = results[(results["named"] == "all") & (results["method"] != "real")]
    some = some.assign(name=np.where(some["method"] == "base", some["sampler"], some["method"]))
    groups = some.groupby(["name", "steps"], sort=False)
    found = groups[["seconds_per_image"]].mean()
    for metric in METRICS:
        found[metric], found[f"{metric}_low"], found[f"{metric}_high"] = (
            getattr(groups[metric], statistic)() for statistic in ("mean", "min", "max")
        )
    return found.reset_index()


def quality_against_latency(results: pd.DataFrame, names: dict[str, str], path: Path) -> None:
    """A panel a metric on logarithmic axes, so that no outlier flattens the rest; numbers are sampling steps, bars the seeds.

    The dashed line is the front: no other point is faster and better. `names` are the methods' in words, in their order.
    """
    points = mean_over_seeds(results)
    order = [name for name in names if (points["name"] == name).any()]
    further = iter(FURTHER * 2)
    colours = {name: FIXED[name] if name in FIXED else next(further) for name in order}
    figure, axes = plt.subplots(1, len(METRICS), figsize=(10, 4.4), layout="constrained")
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for name, marker in zip(order, MARKERS * 2, strict=False):
            some = points[points["name"] == name].sort_values("steps")
            x, y = some["seconds_per_image"], some[metric]
            bars = [y - some[f"{metric}_low"], some[f"{metric}_high"] - y]
            axis.errorbar(x, y, bars, color=colours[name], marker=marker, ms=5, lw=1.1, elinewidth=0.8, label=names[name])
        for (seconds, steps), some in points.groupby(["seconds_per_image", "steps"]):  # once, above all that take as long
            place = (seconds, some[f"{metric}_high"].max())
            axis.annotate(f"{steps:g}", place, (0, 6), textcoords="offset points", ha="center", fontsize=7, color="#444444")
        front = points[pareto_front(points[["seconds_per_image", metric]].to_numpy())].sort_values("seconds_per_image")
        axis.plot(
            front["seconds_per_image"], front[metric], color="#888888", ls="--", lw=1, zorder=0, drawstyle="steps-post",
            label="no other is faster and better",
        )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log" if (points[f"{metric}_low"] > 0).all() else "symlog")
        plain_ticks(axis.xaxis)
        if axis.get_yscale() == "log":
            plain_ticks(axis.yaxis)
        axis.set_title(title, loc="left")
    figure.supxlabel("seconds an image, text to pixels (numbers: sampling steps; bars: lowest and highest seed)", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    save_figure(figure, path)
