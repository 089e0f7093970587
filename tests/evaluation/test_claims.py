"""Verdicts: paired t intervals, what decides, and the committed claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats

from tests.settings import configured
from ufogen.errors import UserError
from ufogen.evaluation.claims import Claim, decide, detectable_effect, median_interval, paired_interval, verdict
from ufogen.pipelines.ablations import toy_arms

ROOT = Path(__file__).parents[2]
CLAIMS = [Claim(**claim) for claim in OmegaConf.to_container(OmegaConf.load(ROOT / "paper/claims.yaml"))]


def claim(effect: list, test: str = "greater", margin: float = 0.05, **more) -> Claim:
    return Claim("c", "nouns", "a is better than b", "recalled", "kid_lite0", effect, test, margin, **more)


def results(**values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"arm": arm, "seed": seed, "steps": 1, "kid_lite0": value}
        for arm, row in values.items()
        for seed, value in enumerate(row)
    )


CURVES = pd.DataFrame(
    {"arm": "a", "seed": seed, "update": update, "kid_lite0": 10 * seed + update}
    for seed in range(3)
    for update in (0, 60, 120)
)


def test_interval_is_the_one_of_scipys_paired_test():
    a, b = np.array([1.0, 1.4, 0.9]), np.array([0.8, 1.0, 0.85])
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert paired_interval(a - b) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [2, 5, 16])
def test_the_detectable_effect_is_found_four_times_in_five(n: int):
    effect = detectable_effect(0.1, n)
    differences = np.random.default_rng(0).normal(effect, 0.1, (4000, n))
    found = stats.ttest_1samp(differences, 0, axis=1).confidence_interval(0.95).low > 0
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_interval_of_the_median_covers_with_its_level():
    """P(x_(10) <= median <= x_(23)) of 32 is at least 0.95, and the next narrower pair has less."""
    low, high = median_interval(np.random.default_rng(0).permutation(np.arange(1.0, 33.0)))
    assert (low, high) == (10, 23)
    law = stats.binom(32, 0.5)
    assert law.cdf(22) - law.cdf(9) >= 0.95 > law.cdf(21) - law.cdf(10)
    with pytest.raises(UserError, match="5 seeds give no 95% interval"):
        median_interval(np.arange(5.0))


def test_a_verdict_says_which_effect_its_seeds_would_have_found():
    differences = np.array([0.1, 0.3, 0.2, 0.4])
    made = decide(claim([[1, "a", 1], [-1, "b", 1]]), results(a=differences, b=[0.0] * 4), pd.DataFrame())
    assert made["detectable"] == pytest.approx(detectable_effect(stats.tstd(differences), 4))


def test_one_diverging_run_moves_the_mean_and_not_the_median():
    table = results(a=[1.1] * 15 + [-30.0], b=[1.0] * 16)
    center = {center: decide(claim([[1, "a", 1], [-1, "b", 1]], center=center), table, CURVES) for center in ("mean", "median")}
    assert center["mean"]["verdict"] == "inconclusive" and center["median"]["verdict"] == "reproduced"
    assert center["median"]["effect"] == pytest.approx(0.1)


def test_seeds_of_a_claim_are_its_own():
    found = decide(claim([[1, "a", 1]], seeds=[1, 3]), results(a=[9.0, 1.0, 2.0, 3.0, 9.0]), CURVES)
    assert found["per_seed"] == [1, 2, 3] and found["seeds"] == 3


@pytest.mark.parametrize(
    "test, low, high, expected",
    [
        ("greater", 0.01, 0.2, "reproduced"),
        ("greater", -0.2, 0.04, "not reproduced"),
        ("greater", -0.2, -0.1, "not reproduced"),
        ("greater", -0.2, 0.2, "inconclusive"),
        ("equivalent", -0.04, 0.04, "reproduced"),
        ("equivalent", 0.06, 0.2, "not reproduced"),
        ("equivalent", -0.2, -0.06, "not reproduced"),
        ("equivalent", -0.2, 0.04, "inconclusive"),
    ],
)
def test_verdicts(test, low, high, expected):
    assert verdict(test, low, high, 0.05) == expected


def test_effect_is_paired_by_seed_whatever_the_order_of_rows():
    table = results(a=[1.0, 2.0, 3.0], b=[1.5, 2.5, 3.6]).sample(frac=1, random_state=0)
    found = decide(claim([[1, "b", 1], [-1, "a", 1]]), table, CURVES)
    assert found["per_seed"] == pytest.approx([0.5, 0.5, 0.6])
    assert found["verdict"] == "reproduced" and found["seeds"] == 3


def test_a_seed_that_one_arm_lacks_is_left_out():
    found = decide(claim([[1, "b", 1], [-1, "a", 1]]), results(a=[1.0, 2.0], b=[1.5, 2.5, 9.0]), CURVES)
    assert found["seeds"] == 2


def test_share_takes_the_first_measurement_at_or_after_it():
    found = decide(claim([[1, "a", {"share": 0.25}]]), results(a=[0.0]), CURVES)
    assert found["per_seed"] == [60, 70, 80]


def test_missing_arm_and_single_seed_and_unknown_test_are_errors():
    with pytest.raises(UserError, match="no result of arm z at 1"):
        decide(claim([[1, "z", 1]]), results(a=[1.0, 2.0]), CURVES)
    with pytest.raises(UserError, match="1 seeds are shared"):
        decide(claim([[1, "a", 1]]), results(a=[1.0]), CURVES)
    with pytest.raises(UserError, match="allowed: greater, equivalent"):
        decide(claim([[1, "a", 1]], "smaller"), results(a=[1.0, 2.0]), CURVES)
    with pytest.raises(UserError, match="center 'mode' of claim c is unknown; allowed: mean, median"):
        decide(claim([[1, "a", 1]], center="mode"), results(a=[1.0, 2.0]), CURVES)


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: one.id)
def test_committed_claims_name_arms_that_run_with_several_seeds(one: Claim):
    arms, used = OmegaConf.load(ROOT / "pipelines/ablations/arms.yaml"), {term[1] for term in one.effect}
    if one.study == "nouns":
        assert all(arms.arms[name].seeds >= 3 for name in used)
    else:
        assert one.study == "gaussians" and used <= set(toy_arms.arms(configured().toy))
    assert one.test in ("greater", "equivalent") and one.certainty in ("confirmed", "single source", "recalled", "ours")


def test_ids_are_unique():
    assert len({one.id for one in CLAIMS}) == len(CLAIMS)
