"""Uncertainty of a mean."""

from __future__ import annotations

import numpy as np
from scipy.stats import bootstrap

from ufogen.errors import UserError


def bootstrap_interval(values: np.ndarray, *, seed: int, level: float = 0.95, resamples: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap confidence interval of the mean.

    Parameters
    ----------
    values: (n,) with n >= 2, one for each independent unit: take the mean of an image's attributes first.
    level: probability that the interval is to cover.

    Returns
    -------
    low, high: ends of the interval, in the units of `values`.

    Raises
    ------
    UserError: `values` of another shape, fewer than two or not finite.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise UserError(f"values: expected at least two finite numbers (n,), got shape {values.shape}")
    # not BCa, scipy's default: it is undefined for a constant sample, such as an accuracy of 1
    interval = bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        batch=max(1, 10_000_000 // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
