"""The curves of the applications are drawn from the columns that the stages write."""

import numpy as np
import pandas as pd
from PIL import Image

from ufogen.figures.applications import application_curves


def test_curves_are_drawn_from_both_tables(tmp_path):
    edits = [
        {"method": method, "strength": s, "mse": s / 10, "feature_distance": s, "attribute_accuracy": s}
        for method in ("ufogen", "base in one step")
        for s in (0.0, 0.5, 1.0)
    ]
    edits.append({"method": "real", "strength": None, "mse": 0.1, "feature_distance": 1.0, "attribute_accuracy": 1.0})
    control = [
        {"method": method, "control": kind, "steps": steps, "edge_f1": 0.7}
        for method, steps in (("ufogen", 1), ("base", 25))
        for kind in ("none", "controlnet", "adapter")
    ]
    control.append({"method": "real", "control": "autoencoder", "steps": 0, "edge_f1": 0.96})
    application_curves(pd.DataFrame(edits), pd.DataFrame(control), tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert {(200, 16, 46), (31, 95, 168)} <= {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0)}
