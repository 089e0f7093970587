"""Draws loss_curves.png from loss_curves.csv, both beside this file: one healthy run of 200 updates and three sick ones.

The columns come from artifacts/train/curves.csv of these runs, one after the other and each by
`python -m ufogen.pipelines.main.train SMALL MORE` after prepare, initialize and encode with `SMALL`, which is
data.train_size=2048 data.evaluation_size=50 threads=1 processes=1 trainer.updates=200 trainer.log_every=5
trainer.validate_every=200 trainer.validation_size=50; `MORE` stands in `RUNS`.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from ufogen.figures.style import COLOURS, plt, save_figure

HERE = Path(__file__).parent
RUNS = {  # in the file: title, colour
    # no overrides
    "healthy": ("healthy", COLOURS["real"]),
    # objective.r1_weight=0 objective.r2_weight=0 objective.mismatched_share=0
    # trainer.discriminator_learning_rate=2e-3 trainer.generator_learning_rate=1e-5
    "d_wins": ("D has won", COLOURS["ufogen"]),
    # objective.step_size=50 objective.step_size_max=0
    "d_dead": ("D is dead", COLOURS["ddim"]),
    # objective.reconstruction_weight=0 trainer.generator_learning_rate=4e-3
    "collapse": ("G runs away", COLOURS["dpm++"]),
}
PANELS = {  # column: title, level
    "loss_d": ("discriminator loss", 2 * math.log(2)),
    "loss_g": ("generator adversarial loss", math.log(2)),
    "std_last": ("standard deviation of one-step samples", 1.0),
}


def main() -> None:
    curves = pd.read_csv(HERE / "loss_curves.csv")
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9.6, 2.9), layout="constrained")
    for axis, (column, (title, level)) in zip(axes, PANELS.items(), strict=True):
        for run, (label, colour) in RUNS.items():
            curve = curves[curves["run"] == run].set_index("update")[column]
            axis.plot(curve.index, curve.rolling(4, min_periods=1).mean(), color=colour, lw=1.6, label=label)
        axis.axhline(level, color="black", lw=0.8, ls="--")
        axis.set_title(title, loc="left")
        axis.set_xlabel("update")
    axes[2].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(RUNS))
    save_figure(figure, HERE / "loss_curves.png")


if __name__ == "__main__":
    main()
