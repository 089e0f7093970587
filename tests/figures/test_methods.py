"""The figure of the comparison shows what the table says."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ufogen.figures import methods

NAMES = {"dpm++": "base, DPM++", "ufogen": "UFOGen", "dmd2": "DMD2"}


def row(method: str, sampler: str, steps: int, seconds: float, residual: float, **changes) -> dict:
    found = {"method": method, "sampler": sampler, "steps": steps, "seconds_per_image": seconds, "residual": residual}
    return found | {"kid_lite0": residual / 20, "named": "all"} | changes


RESULTS = pd.DataFrame(
    [
        row("ufogen", "renoise", 1, 0.01, 15.0, seed=0),
        row("ufogen", "renoise", 1, 0.01, 17.0, seed=1),
        row("ufogen", "renoise", 4, 0.04, 14.0, seed=0),
        row("dmd2", "renoise", 1, 0.01, 20.0, seed=0),
        row("base", "dpm++", 25, 0.5, 13.0, seed=0),
        row("base", "dpm++", 4, 0.08, 400.0, seed=0),
        row("base", "dpm++", 25, 0.5, 99.0, seed=0, named="2"),
        row("real", "autoencoder", 0, float("nan"), 7.0, seed=0),
    ]
)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([[1, 3], [2, 2], [3, 1]], [True, True, True]),
        ([[1, 1], [2, 2], [1, 2]], [True, False, False]),
        ([[1, 1], [1, 1], [2, 0]], [True, True, True]),  # equals do not beat each other
    ],
)
def test_front_is_what_no_other_beats(points, front):
    assert methods.pareto_front(np.array(points)).tolist() == front


def test_points_are_means_over_seeds_of_all_images_without_real_ones():
    points = methods.mean_over_seeds(RESULTS).set_index(["name", "steps"])
    assert set(points.index) == {("ufogen", 1), ("ufogen", 4), ("dmd2", 1), ("dpm++", 25), ("dpm++", 4)}
    assert points.loc[("ufogen", 1), ["residual", "residual_low", "residual_high"]].tolist() == [16.0, 15.0, 17.0]
    assert points.loc[("dpm++", 25), "residual"] == 13.0


def test_figure_names_methods_in_words_and_draws_the_front_on_logarithmic_axes(monkeypatch: pytest.MonkeyPatch):
    drawn: list[plt.Figure] = []
    monkeypatch.setattr(methods, "save_figure", lambda figure, path: drawn.append(figure))
    methods.quality_against_latency(RESULTS, NAMES | {"yoso": "YOSO"}, None)
    axis = drawn[0].axes[0]
    front = next(line for line in axis.lines if line.get_label() == "no other is faster and better")
    np.testing.assert_allclose(front.get_xydata(), [[0.01, 16.0], [0.04, 14.0], [0.5, 13.0]])
    labels = {text.get_text() for text in drawn[0].legends[0].get_texts()}
    assert labels == {*NAMES.values(), "no other is faster and better"}
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert {text.get_text() for text in axis.texts} == {"1", "4", "25"}
