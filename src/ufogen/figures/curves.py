"""Training curves as small multiples: grey belongs to the discriminator and real data, red to the generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ufogen.errors import UserError
from ufogen.figures.style import COLOURS, plt, save_figure

GREY, RED, LINE = COLOURS["real"], COLOURS["ufogen"], "#1f5fa8"
COLUMNS = 3  # panels a row


@dataclass(frozen=True)
class Panel:
    title: str
    curves: dict[str, tuple[str, str]]  # column: label, colour
    level: float | None = None  # a horizontal line to compare with
    level_label: str = ""
    log: bool = False  # where all values are positive


def training_curves(log: pd.DataFrame, path: Path) -> None:
    """The columns of artifacts/train/curves.csv against the update; a panel without values is left out.

    Raises `UserError` where no panel is left.
    """
    log = log.apply(pd.to_numeric, errors="coerce")
    panels = [p for p in _panels(log) if any(name in log and log[name].notna().any() for name in p.curves)]
    if not panels:
        raise UserError("the training curves are empty: run the stage train again (dvc repro --force train)")
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.1 * columns, 2.5 * rows), squeeze=False, sharex=True, layout="constrained"
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw(axis, log, panel)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for column in axes.T:
        lowest = [axis for axis in column if axis.get_visible()][-1]
        lowest.set_xlabel("update")
        lowest.tick_params(labelbottom=True)
    save_figure(figure, path)


def _panels(log: pd.DataFrame) -> list[Panel]:
    """The equilibrium of D's loss stands in the file. There D's logits are 0, which gives G's loss."""
    known = log["equilibrium"].dropna() if "equilibrium" in log else []
    d = float(known.iloc[-1]) if len(known) else None
    g, d_label, g_label = None, "", ""
    if d is not None and math.isclose(d, 2 * math.log(2), rel_tol=1e-4):
        g, d_label, g_label = math.log(2), "equilibrium 2 ln 2", "equilibrium ln 2"
    elif d is not None:  # the hinge loss: the generator's is the logit itself
        g, d_label, g_label = 0.0, f"equilibrium {d:g}", "equilibrium 0"
    logits = {"logit_real": ("real", GREY), "logit_fake": ("generated", RED)}
    return [
        Panel("discriminator loss", {"loss_d": ("", GREY)}, d, d_label),
        Panel("generator adversarial loss", {"loss_g": ("", RED)}, g, g_label),
        Panel("discriminator logits", logits, 0.0, "undecided"),
        Panel("R1 penalty", {"r1": ("", GREY)}, log=True),
        Panel("reconstruction loss", {"reconstruction": ("", RED)}, log=True),
        Panel("KID-Lite0 of one-step samples, validation", {"kid_lite0": ("", RED)}),
        Panel(
            "grey levels to the nearest real character", {"residual": ("all", GREY), "residual_head_open": ("head open", RED)}
        ),
        Panel("attributes of one-step samples, validation", {"attribute_accuracy": ("", RED)}),
        Panel("standard deviation of one-step samples", {"std_last": ("", RED)}, 1.0, "data: 1"),
    ]


def _draw(axis: plt.Axes, log: pd.DataFrame, panel: Panel) -> None:
    values = pd.concat([log[name].dropna() for name in panel.curves if name in log])
    if panel.log and values.min() > 0 and values.max() > 100 * values.min():
        axis.set_yscale("log")
    for name, (label, colour) in panel.curves.items():
        curve = log.set_index("update")[name].dropna() if name in log else pd.Series(dtype=float)
        window = len(curve) // 15
        if window < 2:
            axis.plot(curve.index, curve, color=colour, lw=1.2, marker="o", ms=3, label=label or None)
            continue
        axis.plot(curve.index, curve, color=colour, lw=0.6, alpha=0.35)
        smooth = curve.rolling(window, center=True, min_periods=1).mean()
        axis.plot(smooth.index, smooth, color=colour, lw=1.6, label=label or None)
    if panel.level is not None:
        axis.axhline(panel.level, color=LINE, lw=1.2, ls="--", label=panel.level_label)
    axis.set_title(panel.title, loc="left", pad=20)
    handles, labels = axis.get_legend_handles_labels()
    if handles:  # between the title and the axes, where no curve runs
        axis.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, borderpad=0,
            borderaxespad=0.3, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
