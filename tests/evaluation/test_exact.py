"""Exact measures: what is asked of images with known parts comes out, and their standard errors are those of drawing again."""

import numpy as np
import pytest

from ufogen.data.nouns import COUNTS, KINDS
from ufogen.data.pairs import make_pairs
from ufogen.errors import UserError
from ufogen.evaluation.alignment import attribute_accuracy, match_parts
from ufogen.evaluation.coverage import expected_distinct
from ufogen.evaluation.exact import (
    EXACT,
    HEAD,
    Reading,
    by_named,
    exact_details,
    exact_measures,
    ratio_error,
    read,
    standard_errors,
)


def made_up(rng, n=300, shares=None) -> Reading:
    """Readings without images: two attributes named, of which 7 in 10 are right."""
    shares = np.full(COUNTS["head"], 1 / COUNTS["head"]) if shares is None else shares
    parts = np.stack([rng.integers(0, COUNTS[kind], n) for kind in KINDS], axis=1)
    parts[:, HEAD] = rng.choice(COUNTS["head"], n, p=shares)
    mentioned = rng.random((n, len(KINDS))).argsort(1) < 2
    shown = np.where(mentioned & (rng.random(parts.shape) < 0.3), (parts + 1) % 2, parts)
    return Reading(shown, rng.gamma(4, 2, n), parts, mentioned)


@pytest.fixture(scope="module")
def pairs(nouns):
    return make_pairs(nouns, 200, 0, "exact measures")


def test_real_images_are_perfect(nouns, pairs):
    found = exact_measures(read(pairs.images, pairs.parts, pairs.mentioned, nouns))
    is_open = ~pairs.mentioned[:, HEAD]
    assert tuple(found) == EXACT
    assert found["residual"] == found["residual_head_named"] == found["residual_head_open"] == 0
    assert found["attribute_accuracy"] == 1
    assert found["open_heads"] == is_open.sum()
    assert found["distinct_open_heads"] == len(set(pairs.parts[is_open, HEAD]))


def test_residuals_are_apart_for_open_heads_and_wrong_parts_count(nouns, pairs):
    shown = pairs.parts.copy()
    shown[:100, 4] = (shown[:100, 4] + 1) % COUNTS["glasses"]
    images = nouns.render(shown)
    is_open = ~pairs.mentioned[:, HEAD]
    images[is_open] ^= 1  # every number is wrong by one grey level
    reading = read(images, pairs.parts, pairs.mentioned, nouns)
    found = exact_measures(reading)
    assert found["residual_head_named"] == 0
    assert found["residual_head_open"] == pytest.approx(1)
    assert found["residual"] == pytest.approx(is_open.mean())
    accuracy = attribute_accuracy(images, pairs.parts, pairs.mentioned, nouns)
    assert found["attribute_accuracy"] == accuracy.pop("mean") < 1
    assert exact_details(reading, 0)["accuracy_by_kind"] == accuracy
    np.testing.assert_array_equal(reading.residual, match_parts(images, nouns)[1])


def test_a_generator_of_few_heads_has_low_coverage(nouns, pairs):
    shown = pairs.parts.copy()
    shown[:, HEAD] = np.where(pairs.mentioned[:, HEAD], shown[:, HEAD], shown[:, HEAD] % 4)
    reading = read(nouns.render(shown), pairs.parts, pairs.mentioned, nouns)
    found, details = exact_measures(reading), exact_details(reading, 0)
    assert found["attribute_accuracy"] == 1
    assert found["distinct_open_heads"] == details["coverage"]["head"]["distinct"] == 4
    assert 1.9 < found["head_bits"] == details["coverage"]["head"]["bits"] <= 2
    assert details["coverage"]["head"]["expected_distinct"] > 60
    assert details["standard_error"]["distinct_open_heads"] == 0


def test_rows_by_the_number_of_named_attributes(rng):
    reading = made_up(rng)
    reading.mentioned[:100] = False
    reading.mentioned[:100, :4] = True
    groups = dict(by_named(reading.mentioned))
    assert list(groups) == ["all", "2", "4"]
    assert groups["all"].all() and groups["4"].sum() == 100
    some = reading.where(groups["4"])
    assert (some.named == 4).all()
    np.testing.assert_array_equal(some.shown, reading.shown[:100])
    assert exact_measures(some)["residual"] == pytest.approx(reading.residual[:100].mean())
    assert exact_measures(some)["open_heads"] == 0


def test_what_no_image_decides_is_left_out(rng):
    reading = made_up(rng, 4)
    reading.mentioned[:] = True
    found = exact_measures(reading)
    assert set(EXACT) - set(found) == {"residual_head_open", "head_bits"}
    assert found["open_heads"] == found["distinct_open_heads"] == 0
    assert set(standard_errors(reading, 0)) == {"residual", "residual_head_named", "attribute_accuracy"}
    assert standard_errors(reading.where(np.arange(1)), 0) == {}


@pytest.mark.parametrize("shares", ["uniform", "skewed", "few"])
def test_standard_errors_are_the_spread_of_other_images(shares):
    heads = COUNTS["head"]
    shares = {
        "uniform": np.ones(heads), "skewed": 1 / np.arange(1.0, heads + 1), "few": np.where(np.arange(heads) < 10, 1, 1e-3),
    }[shares]  # fmt: skip
    shares /= shares.sum()
    readings = [made_up(np.random.default_rng(i), 300, shares) for i in range(600)]
    found = [exact_measures(reading) for reading in readings]
    errors = [standard_errors(reading, 0) for reading in readings[:20]]
    for name in set(EXACT) - {"open_heads"}:
        spread = np.std([row[name] for row in found])
        assert np.mean([row[name] for row in errors]) == pytest.approx(spread, rel=0.35), name
    assert standard_errors(readings[0], 0) == errors[0]
    assert standard_errors(readings[0], 1)["distinct_open_heads"] != errors[0]["distinct_open_heads"]


def test_ratio_error_of_a_mean_and_of_images_that_repeat_themselves(rng):
    values = rng.random(50)
    assert ratio_error(values) == pytest.approx(values.std(ddof=1) / 50**0.5)
    assert ratio_error(3 * values, np.full(50, 3)) == pytest.approx(ratio_error(values))
    assert ratio_error(values[:1]) is None
    assert ratio_error(values, np.zeros(50)) is None


def test_expected_heads_of_the_evaluation(nouns, pairs):
    reading = read(pairs.images[:100], pairs.parts[:100], pairs.mentioned[:100], nouns)
    found = exact_details(reading, 0)["coverage"]["head"]
    assert found["expected_distinct"] == pytest.approx(expected_distinct(np.full(254, 1 / 254), found["open"]), rel=0.002)


def test_bad_input_is_named(nouns, pairs):
    with pytest.raises(UserError, match="mentioned: .*int"):
        read(pairs.images[:2], pairs.parts[:2], pairs.mentioned[:2].astype(int), nouns)
    with pytest.raises(UserError, match="images: .*float32"):
        read(pairs.images[:2].astype(np.float32), pairs.parts[:2], pairs.mentioned[:2], nouns)
