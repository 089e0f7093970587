"""The figures of the ablation study show what the table says."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ufogen.figures import ablations

ARMS = {"ufogen": 1.0, "siddm": 1.5, "posterior": 1.4, "k_500": 0.8}
OBJECTIVES = {
    "ufogen": {"parameterization": "forward", "step_size": 250, "reconstruction": "x_0"},
    "k_500": {"parameterization": "forward", "step_size": 500, "reconstruction": "x_0"},
    "posterior": {"parameterization": "posterior", "step_size": 250, "reconstruction": "x_0"},
    "siddm": {"parameterization": "posterior", "step_size": 250, "reconstruction": "x_s"},
}
RESULTS = pd.DataFrame(
    {"arm": arm, "seed": seed, "steps": steps, "kid_lite0": kid / steps + 0.01 * seed, "attribute_accuracy": 0.5}
    for arm, kid in ARMS.items()
    for seed in range(2)
    for steps in (1, 2, 4)
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[plt.Figure]:
    figures: list[plt.Figure] = []
    monkeypatch.setattr(ablations, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def lines(axis: plt.Axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in axis.lines if not line.get_label().startswith("_")}


def test_arms_stand_in_the_order_of_their_quality(drawn):
    ablations.quality_by_arm(RESULTS, {arm: f"the arm {arm}" for arm in ARMS}, None)
    names = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert names == [f"the arm {arm}" for arm in ("siddm", "posterior", "ufogen", "k_500")]


def test_sampling_steps_are_on_the_axis_and_means_over_seeds_on_the_lines(drawn):
    ablations.quality_against_sampling_steps(RESULTS, None)
    np.testing.assert_allclose(lines(drawn[0].axes[0])["SIDDM"], [[1, 1.505], [2, 0.755], [4, 0.38]])


def test_step_size_takes_only_arms_that_differ_from_ufogen_in_k_and_parameterisation(drawn):
    ablations.quality_against_step_size(RESULTS, OBJECTIVES, None)
    found = lines(drawn[0].axes[0])
    np.testing.assert_allclose(found["forward"], [[250, 1.005], [500, 0.805]])
    np.testing.assert_allclose(found["posterior"], [[250, 1.405]])


def test_the_entry_takes_arms_of_one_k_and_means_the_last_timestep_by_nothing(drawn):
    moved = {
        "ufogen": OBJECTIVES["ufogen"], "siddm": OBJECTIVES["siddm"],
        "posterior": OBJECTIVES["posterior"] | {"entry_timestep": 0}, "k_500": OBJECTIVES["ufogen"] | {"entry_timestep": 0},
    }  # fmt: skip
    entering = {
        name: {"entry_timestep": 800, "entry_noise": "pure", "minimum_timestep": 1} | each for name, each in moved.items()
    }
    ablations.quality_against_entry(RESULTS, entering, 250, 1000, None)
    found = lines(drawn[0].axes[0])
    np.testing.assert_allclose(found["forward"], [[800, 1.005], [999, 0.805]])
    np.testing.assert_allclose(found["posterior"], [[999, 1.405]])
    ablations.quality_against_entry(RESULTS, entering | {"k_500": entering["k_500"] | {"step_size": 500}}, 250, 1000, None)
    np.testing.assert_allclose(lines(drawn[1].axes[0])["forward"], [[800, 1.005]])


def test_claims_are_named_by_their_statements(drawn):
    one = {
        "study": "nouns",
        "effect": 0.1,
        "interval": (0.0, 0.2),
        "margin": 0.05,
        "verdict": "inconclusive",
        "statement": "A beats B",
    }
    ablations.claims([one, one | {"effect": 2.0, "interval": (1.0, 3.0), "statement": "C beats D"}], None)
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["C beats D", "A beats B"]


def test_convergence_is_drawn_for_the_arms_that_are_there(drawn):
    curves = pd.DataFrame(
        {"arm": "ufogen", "seed": 0, "update": update, "kid_lite0": 2 - update / 100, "attribute_accuracy": 0.5}
        for update in (0, 60, 120)
    )
    ablations.convergence(curves, None)
    np.testing.assert_allclose(lines(drawn[0].axes[0])["UFOGen"], [[0, 2], [60, 1.4], [120, 0.8]])
