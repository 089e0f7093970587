"""Curves of the applications: image-to-image against strength, and edge agreement of each method."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ufogen.figures.style import COLOURS, plt, save_figure

LOOKS = {"ufogen": ("UFOGen, 1 step", COLOURS["ufogen"], "o"), "base in one step": ("base, 1 step", COLOURS["ddim"], "s")}
EDITS = {
    "mse": "squared difference from the source",
    "feature_distance": "feature distance from the source",
    "attribute_accuracy": "attributes of the new prompt",
}
CONTROLS = {"none": "no control", "controlnet": "ControlNet", "adapter": "T2I-Adapter"}
METHODS = {"ufogen": ("UFOGen, 1 step", COLOURS["ufogen"]), "base": ("base", COLOURS["ddim"])}


def application_curves(edits: pd.DataFrame, control: pd.DataFrame, path: Path) -> None:
    """Three panels from paper/results/image_to_image.csv and, as bars, one from paper/results/control.csv."""
    figure, axes = plt.subplots(1, 4, figsize=(11.6, 3.2), layout="constrained")
    for axis, (metric, title) in zip(axes, EDITS.items(), strict=False):
        for method, (label, colour, marker) in LOOKS.items():
            rows = edits[edits["method"] == method].sort_values("strength")
            axis.plot(rows["strength"], rows[metric], color=colour, marker=marker, ms=4, lw=1.6, label=label)
        unrelated = edits.loc[edits["method"] == "real", metric].iloc[0]
        axis.axhline(unrelated, color=COLOURS["real"], lw=1.2, ls="--", label="real images of the new prompt")
        axis.set(xlabel="strength", ylim=(0, None), title=title)
    _edge_bars(axes[3], control)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    save_figure(figure, path)


def _edge_bars(axis: plt.Axes, control: pd.DataFrame) -> None:
    found = control.set_index(["method", "control"])["edge_f1"]
    steps = control.set_index("method")["steps"]
    for i, (method, (label, colour)) in enumerate(METHODS.items()):
        values = [found[method, kind] for kind in CONTROLS]
        places = [place + 0.4 * i for place in range(len(CONTROLS))]
        name = label if method == "ufogen" else f"{label}, {steps[method].iloc[0]} steps"
        axis.bar(places, values, 0.38, color=colour, label=name)
    axis.axhline(found["real", "autoencoder"], color=COLOURS["real"], lw=1.2, ls=":", label="real, through the autoencoder")
    axis.set_xticks([place + 0.2 for place in range(len(CONTROLS))], list(CONTROLS.values()), fontsize=8)
    axis.set(ylim=(0, 1.35), title="agreement with the asked edges (F1)")
    axis.legend(loc="upper left", fontsize=7)
    axis.grid(axis="x", visible=False)
