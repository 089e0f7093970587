"""Coverage: what real images show on average agrees with closed forms, with counting and with drawing."""

from itertools import product

import numpy as np
import pytest

from ufogen.data.nouns import COUNTS, KINDS
from ufogen.evaluation.alignment import match_parts
from ufogen.evaluation.coverage import (
    bits,
    coverage,
    distinct,
    estimated_shares,
    expected_bits,
    expected_distinct,
    part_shares,
)

SHARES = {"uniform": np.full(254, 1 / 254), "skewed": (1 / np.arange(1, 31)) / (1 / np.arange(1, 31)).sum(), "one": np.ones(1)}


def test_bits_of_known_counts():
    counts = np.array([[4, 4, 0, 0], [8, 0, 0, 0], [2, 2, 2, 2], [4, 2, 1, 1]])
    np.testing.assert_allclose(bits(counts), [1, 0, 2, 1.75])
    np.testing.assert_array_equal(distinct(counts), [2, 1, 4, 4])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_expectations_are_the_mean_over_all_outcomes(n):
    shares = np.array([0.5, 0.3, 0.2])
    outcomes = list(product(range(3), repeat=n))
    counts = np.array([np.bincount(outcome, minlength=3) for outcome in outcomes])
    chance = np.array([shares[list(outcome)].prod() for outcome in outcomes])
    assert expected_bits(shares, n) == pytest.approx(chance @ bits(counts))
    assert expected_distinct(shares, n) == pytest.approx(chance @ distinct(counts))


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("n", [3, 100, 500])
def test_expectations_agree_with_drawing(shares, n, rng):
    counts = rng.multinomial(n, shares, 4000)
    assert expected_bits(shares, n) == pytest.approx(bits(counts).mean(), abs=4 * bits(counts).std() / 4000**0.5 + 1e-12)
    found = distinct(counts)
    assert expected_distinct(shares, n) == pytest.approx(found.mean(), abs=4 * found.std() / 4000**0.5 + 1e-12)


def test_closed_forms_of_equal_shares():
    shares = SHARES["uniform"]
    assert expected_distinct(shares, 500) == pytest.approx(254 * (1 - (253 / 254) ** 500))
    assert expected_distinct(shares, 1) == pytest.approx(1)
    assert expected_bits(shares, 1) == pytest.approx(0)
    assert expected_bits(shares, 2) == pytest.approx(253 / 254)
    miller = np.log2(254) - 253 / (2 * 1_000_000 * np.log(2))  # first order of the bias of many draws
    assert expected_bits(shares, 1_000_000) == pytest.approx(miller, abs=1e-6)


@pytest.mark.parametrize("column", range(5), ids=KINDS)
def test_shares_are_those_that_images_are_drawn_with(column, nouns, rng):
    shares, n = part_shares(KINDS[column]), 400_000
    counts = np.bincount(nouns.sample(n, rng)[:, column], minlength=COUNTS[KINDS[column]])
    assert shares.sum() == pytest.approx(1)
    assert (np.abs(counts - n * shares) < 5 * np.sqrt(n * shares)).all()
    square = ((counts - n * shares) ** 2 / (n * shares)).sum()
    assert square < len(shares) + 5 * np.sqrt(2 * len(shares))


def test_heads_that_more_pairs_hold_out_are_rarer(nouns):
    shares, heldout = part_shares("head"), nouns.heldout_pairs.sum(1)
    assert np.corrcoef(shares, heldout)[0, 1] == pytest.approx(-1)
    assert shares.min() < shares.max()


def test_shares_behind_counts():
    np.testing.assert_allclose(estimated_shares(np.array([6, 2, 1, 1, 0, 0])), [0.48, 0.16, 0.08, 0.08, 0.1, 0.1])
    np.testing.assert_allclose(estimated_shares(np.array([3, 1])), [0.75, 0.25])
    np.testing.assert_allclose(estimated_shares(np.array([4, 0])), [1, 0])


def test_coverage_counts_what_captions_leave_open():
    parts = np.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 5], [1, 2, 2, 7, 4], [1, 9, 2, 8, 4]])
    mentioned = np.zeros(parts.shape, bool)
    mentioned[0, 3] = mentioned[3, 1] = True
    mentioned[:, 4] = True
    found = coverage(parts, mentioned)
    assert list(found) == ["background", "body", "accessory", "head"]
    assert [found[kind]["open"] for kind in found] == [4, 3, 4, 3]
    assert [found[kind]["distinct"] for kind in found] == [2, 2, 1, 3]
    assert found["head"]["bits"] == pytest.approx(np.log2(3))
    assert found["background"]["bits"] == 1
    assert found["head"]["expected_distinct"] == expected_distinct(part_shares("head"), 3)
    assert found["body"]["expected_bits"] == expected_bits(part_shares("body"), 3)


def test_real_images_have_the_coverage_expected_of_them(nouns, rng):
    """Also of the kinds that another part may hide: of equal pictures one is drawn."""
    parts = nouns.sample(500, rng)
    matched, _ = match_parts(nouns.render(parts), nouns)
    for kind, found in coverage(matched, np.zeros(parts.shape, bool)).items():
        shares = part_shares(kind)
        again = rng.multinomial(len(parts), shares, 1000)
        assert found["bits"] == pytest.approx(found["expected_bits"], abs=4 * bits(again).std() + 1e-12), kind
        assert found["distinct"] == pytest.approx(found["expected_distinct"], abs=4 * distinct(again).std() + 1e-3), kind
