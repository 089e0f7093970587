import numpy as np
import pytest

from ufogen.errors import UserError
from ufogen.evaluation.statistics import bootstrap_interval


def test_interval_of_a_normal_sample_is_the_known_one(rng):
    values = rng.normal(5, 2, 400)
    low, high = bootstrap_interval(values, seed=0)
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    narrow = bootstrap_interval(values, seed=0, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_seed_fixes_the_interval(rng):
    values = rng.random(50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_constant_sample_has_an_interval_of_no_width():
    assert bootstrap_interval(np.ones(30), seed=0) == (1, 1)


@pytest.mark.parametrize("values", [[0.5], [[0.5, 0.6]], [0.5, np.nan]])
def test_bad_input_is_named(values):
    with pytest.raises(UserError, match="values: expected at least two finite numbers"):
        bootstrap_interval(np.array(values), seed=0)
