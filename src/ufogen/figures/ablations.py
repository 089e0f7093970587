"""Figures of the ablation study; every point is the mean over seeds and its bar the 95 % t interval where there are several."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from ufogen.evaluation.claims import paired_interval
from ufogen.figures.samples import rows_of_samples
from ufogen.figures.style import COLOURS, plain_ticks, plt, save_figure

LOOKS = {  # arm: label, colour
    "ufogen": ("UFOGen", COLOURS["ufogen"]),
    "siddm": ("SIDDM", COLOURS["ddim"]),
    "posterior": ("posterior", COLOURS["dpm++"]),
    "scratch_generator": ("G from scratch", "#8a5a9e"),
    "scratch_discriminator": ("D from scratch", "#b8860b"),
}
VERDICTS = {"reproduced": COLOURS["dpm++"], "not reproduced": COLOURS["ufogen"], "inconclusive": "#888888"}
STUDIES = {"nouns": "Nouns: difference in KID-Lite0", "gaussians": "25 Gaussians: difference in Wasserstein-2 distance"}
TITLES = {"kid_lite0": "KID-Lite0, one step (lower is better)", "attribute_accuracy": "attributes, one step (higher is better)"}


def quality_by_arm(results: pd.DataFrame, descriptions: dict[str, str], path: Path) -> None:
    """One-step KID-Lite0, on a logarithmic axis, and attributes of every arm, the best on top; a line marks UFOGen."""
    one = results[results["steps"] == 1]
    order = one.groupby("arm")["kid_lite0"].mean().sort_values(ascending=False).index
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.26 * len(order) + 1), sharey=True, layout="constrained")
    for axis, (metric, title) in zip(axes, TITLES.items(), strict=True):
        for height, arm in enumerate(order):
            values = one.loc[one["arm"] == arm, metric].to_numpy()
            colour = COLOURS["ufogen"] if arm == "ufogen" else COLOURS["ddim"]
            _point(axis, values.mean(), height, values, colour, horizontal=True)
        if (one["arm"] == "ufogen").any():
            axis.axvline(one.loc[one["arm"] == "ufogen", metric].mean(), color=COLOURS["ufogen"], lw=0.8, ls=":")
        axis.set_title(title, loc="left")
    axes[0].set_xscale("log")
    plain_ticks(axes[0].xaxis)
    axes[0].set_yticks(range(len(order)), [descriptions[arm] for arm in order])
    save_figure(figure, path)


def quality_against_sampling_steps(
    results: pd.DataFrame, path: Path, arms: tuple[str, ...] = ("ufogen", "siddm", "posterior")
) -> None:
    """KID-Lite0 and attributes against sampling steps."""
    _lines(results, "steps", arms, "sampling steps", path)


def quality_against_step_size(results: pd.DataFrame, objectives: dict[str, dict], path: Path) -> None:
    """One-step quality against k for both parameterisations, from the arms that differ from UFOGen in these alone."""
    found = _of_both_parameterizations(results, objectives, objectives["ufogen"], ("step_size",))
    _lines(found, "step_size", ("forward", "posterior"), "step size k", path)


def quality_against_entry(
    results: pd.DataFrame, objectives: dict[str, dict], step_size: int, timesteps: int, path: Path
) -> None:
    """The same against the timestep at which pure noise enters, at one k; the lowest t of training moves with the entry."""
    reference = objectives["ufogen"] | {"step_size": step_size}
    found = _of_both_parameterizations(results, objectives, reference, ("entry_timestep", "entry_noise", "minimum_timestep"))
    found = found.assign(entry_timestep=found["entry_timestep"].replace(0, timesteps - 1))
    _lines(found, "entry_timestep", ("forward", "posterior"), "entry timestep", path)


def _of_both_parameterizations(
    results: pd.DataFrame, objectives: dict[str, dict], reference: dict, free: tuple[str, ...]
) -> pd.DataFrame:
    """One-step rows of the arms that differ from the reference in the free settings alone; the first of them is a column."""
    rows = []
    for arm, objective in objectives.items():
        if {key for key in reference if objective[key] != reference[key]} <= {*free, "parameterization"}:
            found = results[(results["arm"] == arm) & (results["steps"] == 1)]
            rows.append(found.assign(**{free[0]: objective[free[0]]}, arm=objective["parameterization"]))
    return pd.concat(rows, ignore_index=True)


def convergence(curves: pd.DataFrame, path: Path, arms: tuple[str, ...] = tuple(LOOKS)[:1] + tuple(LOOKS)[3:]) -> None:
    """One-step validation quality against updates, with and without initialisation from the base."""
    _lines(curves, "update", arms, "updates", path, logarithmic=False)


def evidence(table: pd.DataFrame, path: Path) -> None:
    """What D could see against k, a line for each redundancy; dotted, what two halves of real data show."""
    figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for redundancy, colour in zip(sorted(table["redundancy"].unique()), plt.cm.viridis(np.linspace(0, 0.85, 4)), strict=True):
        rows = table[table["redundancy"] == redundancy].sort_values("k")
        axis.plot(rows["k"], rows["nats"], "o-", color=colour, ms=3, lw=1.4, label=f"each number {redundancy} times")
        axis.plot(rows["k"], rows["floor"], ":", color=colour, lw=0.9)
    axis.set_yscale("log")
    axis.set_xlabel("step size k, t = T - 1")
    axis.set_title("nats an image between x_s and the base's x'_s", loc="left")
    axis.legend()
    save_figure(figure, path)


def claims(verdicts: list[dict], path: Path) -> None:
    """The effect of every claim with its interval, a panel a study; the band is what would not count."""
    studies = list(dict.fromkeys(claim["study"] for claim in verdicts))
    groups = [[claim for claim in verdicts if claim["study"] == study][::-1] for study in studies]
    figure, axes = plt.subplots(
        len(studies), 1, figsize=(9, 0.36 * len(verdicts) + 1.2 * len(studies)), layout="constrained", squeeze=False,
        height_ratios=[len(group) for group in groups],
    )  # fmt: skip
    for axis, study, group in zip(axes[:, 0], studies, groups, strict=True):
        for height, claim in enumerate(group):
            colour = VERDICTS[claim["verdict"]]
            axis.plot(claim["interval"], (height, height), color=colour, lw=1.4)
            axis.plot(claim["effect"], height, "o", color=colour, ms=4)
        axis.set_xscale("symlog", linthresh=4 * group[0]["margin"])  # one effect in ten is many times the others
        axis.axvspan(-group[0]["margin"], group[0]["margin"], color="#888888", alpha=0.15, lw=0)
        axis.axvline(0, color="#888888", lw=0.8)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_yticks(range(len(group)), [fill(claim["statement"], 60) for claim in group])
        axis.set_title(f"{STUDIES[study]}; above 0 speaks for the claim", loc="left")
    axes[0, 0].legend(
        handles=[plt.Line2D([], [], color=colour, marker="o", ms=4, label=verdict) for verdict, colour in VERDICTS.items()]
    )
    save_figure(figure, path)


def samples_by_arm(pictures: dict[str, np.ndarray], prompts: list[str], path: Path, columns: int = 8) -> None:
    """One-step samples (n, h, w, 3) of each arm's first seed from the same noise."""
    note = "One sampling step, the same noise and prompts in every row; the first evaluation prompts, nothing is picked."
    rows = {fill(name, 26): images[:columns] for name, images in pictures.items()}
    rows_of_samples(rows, prompts[:columns], note, path)


def _lines(frame: pd.DataFrame, x: str, arms: tuple[str, ...], label: str, path: Path, logarithmic: bool = True) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    looks = LOOKS | {"forward": ("forward", COLOURS["ufogen"])}
    for axis, (metric, title) in zip(axes, TITLES.items(), strict=True):
        for arm in arms:
            name, colour = looks[arm]
            groups = frame[frame["arm"] == arm].groupby(x)[metric]
            if not len(groups):
                continue
            axis.plot(groups.mean().index, groups.mean(), color=colour, lw=1.4, label=name)
            for value, group in groups:
                _point(axis, value, group.mean(), group.to_numpy(), colour)
        ticks = sorted(frame.loc[frame["arm"].isin(arms), x].unique())
        if logarithmic:
            axis.set_xscale("log", base=2)
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.xaxis.minorticks_off()
        axis.set_xlabel(label)
        axis.set_title(title if x != "steps" else title.replace(", one step", ""), loc="left")
    axes[0].legend()
    save_figure(figure, path)


def _point(axis: plt.Axes, x: float, y: float, values: np.ndarray, colour: str, horizontal: bool = False) -> None:
    axis.plot(x, y, "o", color=colour, ms=4)
    if len(values) > 1:
        ends = paired_interval(values)
        axis.plot(*((ends, (y, y)) if horizontal else ((x, x), ends)), color=colour, lw=1.2, alpha=0.6)
