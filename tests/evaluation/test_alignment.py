"""Alignment: parts are read exactly, ties are right, and a wrong part is wrong."""

import numpy as np
import pytest

from ufogen.data.nouns import COUNTS, KINDS
from ufogen.errors import UserError
from ufogen.evaluation.alignment import attribute_accuracy, attribute_correct, match_parts


def squared_error(images, parts, nouns):
    return ((images.astype(int) - nouns.render(parts)) ** 2).sum((1, 2, 3))


def all_of(parts):
    return np.ones(parts.shape, bool)


def add_noise(images, sigma, rng):
    return np.clip(np.rint(images + rng.normal(0, sigma, images.shape)), 0, 255).astype(np.uint8)


def test_every_attribute_of_real_images_is_read(nouns, rng):
    parts = nouns.sample(400, rng, heldout=None)
    images = nouns.render(parts)
    matched, residual = match_parts(images, nouns)
    assert residual.max() == 0
    np.testing.assert_array_equal(nouns.render(matched), images)
    assert attribute_correct(images, parts, all_of(parts), nouns).all()


def test_reading_survives_noise(nouns, rng):
    parts = nouns.sample(200, rng, heldout=None)
    correct = attribute_correct(add_noise(nouns.render(parts), 10, rng), parts, all_of(parts), nouns)
    assert (correct.mean(0) > 0.99).all()


def test_match_is_the_least_error(nouns, rng):
    truth = nouns.sample(6, rng, heldout=None)
    images = add_noise(nouns.render(truth), 90, rng)
    matched, residual = match_parts(images, nouns)
    least = squared_error(images, matched, nouns)
    np.testing.assert_allclose(residual, np.sqrt(least / 3072))
    assert (least <= squared_error(images, truth, nouns)).all()
    for column, kind in enumerate(KINDS):
        for part in range(COUNTS[kind]):
            other = matched.copy()
            other[:, column] = part
            assert (squared_error(images, other, nouns) >= least).all(), (kind, part)


def free_heads(nouns):
    """Heads that hide nothing of the body, nor does the head after them."""
    hides = ((nouns.layers["head"] != 0) & (nouns.layers["body"][0] != 0)).any((1, 2))
    return np.flatnonzero(~hides & ~np.roll(hides, -1))


@pytest.mark.parametrize("column", range(5), ids=KINDS)
def test_a_corrupted_attribute_is_wrong_and_the_others_stay_right(nouns, rng, column):
    parts = nouns.sample(50, rng, heldout=None)
    parts[:, 2] = nouns.names["accessory"].index("accessory-heart")  # which does not cover the body
    parts[:, 3] = rng.choice(free_heads(nouns), 50)
    corrupted = parts.copy()
    corrupted[:, column] = (parts[:, column] + 1) % COUNTS[KINDS[column]]
    correct = attribute_correct(nouns.render(corrupted), parts, all_of(parts), nouns)
    assert not correct[:, column].any()
    assert np.delete(correct, column, axis=1).all()


def test_shuffled_captions_score_near_chance(nouns, rng):
    parts = nouns.sample(500, rng, heldout=None)
    accuracy = attribute_accuracy(nouns.render(parts), np.roll(parts, 1, axis=0), all_of(parts), nouns)
    assert accuracy["background"] == pytest.approx(0.5, abs=0.08)
    assert accuracy["glasses"] == pytest.approx(1 / 23, abs=0.035)
    assert accuracy["accessory"] < 0.03
    assert accuracy["head"] < 0.02
    assert accuracy["body"] < 0.25  # one in nine bodies is covered by its accessory, where any is right


def test_a_part_out_of_sight_counts_as_right(nouns, rng):
    parts = nouns.sample(COUNTS["body"], rng, heldout=None)
    bodies_shown = (nouns.layers["body"][0] != 0) & (nouns.layers["accessory"] == 0)
    parts[:, 2] = bodies_shown.sum((1, 2)).argmin()
    parts[:, 1] = np.arange(COUNTS["body"])
    images = nouns.render(parts)
    one_body = parts.copy()
    one_body[:, 1] = 0
    np.testing.assert_array_equal(nouns.render(one_body), images)
    assert len(np.unique(match_parts(images, nouns)[0][:, 1])) < COUNTS["body"]
    assert attribute_correct(images, parts, all_of(parts), nouns).all()


def test_of_equal_pictures_one_is_drawn_that_agrees_with_what_is_named(nouns):
    parts = np.zeros((150, len(KINDS)), int)
    bodies_shown = (nouns.layers["body"][0] != 0) & (nouns.layers["accessory"] == 0)
    parts[:, 2] = bodies_shown.sum((1, 2)).argmin()
    images = nouns.render(parts)
    matched, residual = match_parts(images, nouns)
    bodies = np.bincount(matched[:, 1], minlength=COUNTS["body"])
    assert residual.max() == 0
    assert (bodies > 0).sum() > 25 and bodies.max() < 20  # 5 of each on average
    np.testing.assert_array_equal(match_parts(images, nouns)[0], matched)
    mentioned = np.zeros(parts.shape, bool)
    mentioned[:50, 1] = True
    asked, residual = match_parts(images, nouns, parts, mentioned)
    assert residual.max() == 0
    assert (asked[:50, 1] == 0).all()
    assert len(np.unique(asked[50:, 1])) > 20


def test_a_reading_is_one_character(nouns):
    """A body may look like another one under an accessory of that colour: not both can be taken as right."""
    body = nouns.names["body"].index("body-grayscale-1")
    none = nouns.names["accessory"].index("accessory-none")
    twin = nouns.names["accessory"].index("body-gray-scale-1")
    shown, asked = np.array([[0, body, none, 9, 5]]), np.array([[0, 0, none, 9, 5]])
    images = nouns.render(shown)
    np.testing.assert_array_equal(nouns.render(np.array([[0, 0, twin, 9, 5]])), images)
    correct = attribute_correct(images, asked, all_of(asked), nouns)
    assert correct.sum() == 4
    assert correct[0, 1] != correct[0, 2]


def test_only_named_attributes_count_and_the_mean_is_over_all_of_them(nouns, rng):
    parts = nouns.sample(8, rng, heldout=None)
    images = nouns.render(parts)
    parts[:4, 3] = (parts[:4, 3] + 1) % COUNTS["head"]
    parts[:, 0] = 1 - parts[:, 0]  # wrong, and never named
    mentioned = np.zeros(parts.shape, bool)
    mentioned[:, 3] = True
    mentioned[6:, 4] = True
    assert not attribute_correct(images, parts, mentioned, nouns)[~mentioned].any()
    assert attribute_accuracy(images, parts, mentioned, nouns) == {"head": 0.5, "glasses": 1.0, "mean": 0.6}


def test_bad_input_is_named(nouns, rng):
    parts = nouns.sample(2, rng, heldout=None)
    images = nouns.render(parts)
    mentioned = all_of(parts)
    with pytest.raises(UserError, match="images: .*float32"):
        match_parts(images.astype(np.float32), nouns)
    with pytest.raises(UserError, match=r"images: .*\(2, 3, 32, 32\)"):
        match_parts(images.transpose(0, 3, 1, 2), nouns)
    with pytest.raises(UserError, match="parts: .*float"):
        attribute_correct(images, parts.astype(float), mentioned, nouns)
    with pytest.raises(UserError, match=r"parts: .*\(1, 5\)"):
        attribute_correct(images, parts[:1], mentioned, nouns)
    with pytest.raises(UserError, match="parts: head must be from 0 to 253"):
        attribute_correct(images, np.array([[0, 0, 0, 253, 0], [0, 0, 0, 254, 0]]), mentioned, nouns)
    with pytest.raises(UserError, match="mentioned: .*int"):
        attribute_accuracy(images, parts, mentioned.astype(int), nouns)
    with pytest.raises(UserError, match="mentioned: .*nothing to score"):
        attribute_accuracy(images, parts, ~mentioned, nouns)
