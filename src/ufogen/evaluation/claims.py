"""Verdicts on claims, computed from the arms of the ablation study by tests that paper/claims.yaml fixes beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ufogen.errors import UserError

LEVEL = 0.95
POWER = 0.8


@dataclass
class Claim:
    """A row of paper/claims.yaml; see its head for the meaning of the keys."""

    id: str
    study: str
    statement: str
    certainty: str
    metric: str
    effect: list[list[Any]]
    test: str
    margin: float
    center: str = "mean"
    seeds: list[int] = field(default_factory=list)  # first and last; all where it is empty


def decide(claim: Claim, results: pd.DataFrame, curves: pd.DataFrame) -> dict[str, Any]:
    """{id, study, statement, effect, interval, detectable, seeds, verdict} and what the verdict was computed from.

    `detectable` is the effect that so many seeds would have found with a power of 80 %; None for a median.

    Parameters
    ----------
    results: a row for each arm, seed and number of sampling steps, with a column for the metric.
    curves: a row for each arm, seed and `update`, with the metric of one-step samples.

    Raises
    ------
    UserError: an unknown test or center, or fewer than two seeds that all arms of the claim share.
    """
    if claim.center not in CENTERS:
        raise UserError(f"center {claim.center!r} of claim {claim.id} is unknown; allowed: {', '.join(CENTERS)}")
    center, interval = CENTERS[claim.center]
    terms = [_values(claim, term, results, curves) for term in claim.effect]
    paired = pd.concat(terms, axis=1, join="inner").sum(axis=1).sort_index()
    if claim.seeds:
        paired = paired.loc[claim.seeds[0] : claim.seeds[1]]
    if len(paired) < 2:
        raise UserError(f"claim {claim.id}: {len(paired)} seeds are shared by its arms; at least 2 needed")
    differences = paired.to_numpy()
    low, high = interval(differences)
    return {
        "id": claim.id,
        "study": claim.study,
        "statement": claim.statement,
        "certainty": claim.certainty,
        "metric": claim.metric,
        "effect": float(center(paired)),
        "interval": [low, high],
        "detectable": detectable_effect(differences.std(ddof=1), len(differences)) if claim.center == "mean" else None,
        "per_seed": [float(value) for value in paired],
        "seeds": len(paired),
        "center": claim.center,
        "test": claim.test,
        "margin": claim.margin,
        "verdict": verdict(claim.test, low, high, claim.margin),
    }


def verdict(test: str, low: float, high: float, margin: float) -> str:
    """`reproduced`, `not reproduced` or `inconclusive` for an interval of the effect; ends on a border do not decide."""
    if test == "greater":
        yes, no = low > 0, high < margin
        no = no and not yes
    elif test == "equivalent":
        yes, no = -margin < low and high < margin, high < -margin or low > margin
    else:
        raise UserError(f"test {test!r} of a claim is unknown; allowed: greater, equivalent")
    return "reproduced" if yes else "not reproduced" if no else "inconclusive"


def paired_interval(differences: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean of differences (n,), n >= 2, one a seed."""
    scale = stats.sem(differences)
    if scale == 0:
        return float(differences[0]), float(differences[0])
    low, high = stats.t.interval(level, len(differences) - 1, loc=differences.mean(), scale=scale)
    return float(low), float(high)


def detectable_effect(deviation: float, n: int, power: float = POWER, level: float = LEVEL) -> float:
    """The mean of n >= 2 differences with this standard deviation whose t interval lies above 0 with probability `power`."""
    threshold = stats.t.ppf((1 + level) / 2, n - 1)
    excess = optimize.brentq(lambda shift: stats.nct.sf(threshold, n - 1, shift) - power, 0, 10 * threshold)
    return float(excess * deviation / np.sqrt(n))


def median_interval(differences: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Of the median of differences (n,): from one order statistic to another, whatever their law.

    Raises `UserError` where n is so small (below 6 for 95 %) that there is none.
    """
    low, high = stats.quantile_test(differences, p=0.5).confidence_interval(level)
    if np.isnan([low, high]).any():
        raise UserError(f"{len(differences)} seeds give no {level:.0%} interval of the median; more are needed")
    return float(low), float(high)


CENTERS = {"mean": (np.mean, paired_interval), "median": (np.median, median_interval)}


def _values(claim: Claim, term: list[Any], results: pd.DataFrame, curves: pd.DataFrame) -> pd.Series:
    coefficient, arm, where = term
    if isinstance(where, dict):
        rows = curves[curves["arm"] == arm]
        rows = rows[rows["update"] >= where["share"] * rows["update"].max()]
        rows = rows[rows["update"] == rows["update"].min()]
    else:
        rows = results[(results["arm"] == arm) & (results["steps"] == where)]
    if rows.empty:
        raise UserError(f"claim {claim.id}: no result of arm {arm} at {where}")
    return coefficient * rows.set_index("seed")[claim.metric]
