"""One look for every figure."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = {"ufogen": "#c8102e", "further": "#e07b39", "ddim": "#1f5fa8", "dpm++": "#3a9c78", "real": "#444444"}
DPI = 160

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "savefig.bbox": "tight",
    }
)


def plain_ticks(axis: Axis) -> None:
    """Of a logarithmic axis 1, 2, 5, 10 ... and no powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write a PNG without the date and version that would make each run's file differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
