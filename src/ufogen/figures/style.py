"""One look for every figure."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

COLOURS = {"ufogen": "#c8102e", "ddim": "#1f5fa8", "dpm++": "#3a9c78", "real": "#444444"}
SCALE = 4  # screen pixels for a pixel of the art in plain grids
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


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write a PNG without the date and version that would make each run's file differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def save_image_grid(path: Path, images: np.ndarray, columns: int) -> None:
    """Images (n, h, w, 3) uint8 as one PNG, `columns` a row, each pixel enlarged."""
    n, h, w, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * columns, h, w, 3), 255, np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(rows, columns, h, w, 3).swapaxes(1, 2).reshape(rows * h, columns * w, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((columns * w * SCALE, rows * h * SCALE), Image.Resampling.NEAREST).save(path)
