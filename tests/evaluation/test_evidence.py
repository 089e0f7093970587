"""What D could see: closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from ufogen.evaluation.evidence import gaussian_evidence

RNG = np.random.default_rng(0)
REAL = RNG.normal(0, 1, (200_000, 2))


@pytest.mark.parametrize("alpha_bar", [0.2, 0.9])
@pytest.mark.parametrize("redundancy", [1, 16])
def test_shrunken_samples_have_the_divergence_of_two_normal_laws(alpha_bar, redundancy):
    shrink = 0.5
    noise = (1 - alpha_bar) / redundancy
    ratio = (alpha_bar + noise) / (alpha_bar * shrink**2 + noise)
    expected = 2 * 0.5 * (ratio - 1 - np.log(ratio))
    assert gaussian_evidence(REAL, shrink * REAL, alpha_bar, redundancy) == pytest.approx(expected, rel=0.02)


def test_a_shift_counts_by_its_square_over_the_variance():
    expected = 0.5 * 0.3 * 2 * 0.1**2
    assert gaussian_evidence(REAL, REAL + 0.1, 0.3) == pytest.approx(expected, rel=0.02)


def test_noise_hides_and_redundancy_brings_back():
    values = [gaussian_evidence(REAL, 0.5 * REAL, alpha_bar) for alpha_bar in (0.005, 0.06, 0.3, 0.7)]
    assert values == sorted(values)
    assert gaussian_evidence(REAL, 0.5 * REAL, 0.06, 64) > gaussian_evidence(REAL, 0.5 * REAL, 0.06, 4) > values[1]


def test_samples_of_one_law_have_about_what_chance_leaves():
    n, d = 2000, 20
    a, b = RNG.normal(0, 1, (2, n, d))
    assert gaussian_evidence(a, b, 0.999) == pytest.approx(d**2 / 4 * 2 / n + d / 2 * 2 / n, rel=0.35)
