"""Edges and their agreement, on pictures whose edges are known by hand."""

import numpy as np
import pytest

from ufogen.applications.edges import THRESHOLD, edge_agreement, edge_map, to_condition, to_images
from ufogen.errors import UserError

FLAT = np.full((1, 8, 8, 3), 100, np.uint8)


def halves(left: int, right: int) -> np.ndarray:
    """A picture (1, 8, 8, 3) of two flat halves that differ in the green channel alone."""
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :, :4, 1], image[:, :, 4:, 1] = left, right
    return image


def test_flat_image_has_no_edges():
    assert not edge_map(FLAT).any()


def test_edge_stands_on_the_last_column_before_a_border():
    expected = np.zeros((1, 8, 8), bool)
    expected[:, :, 3] = True
    assert np.array_equal(edge_map(halves(0, 200)), expected)
    assert np.array_equal(edge_map(halves(0, 200).swapaxes(1, 2)), expected.swapaxes(1, 2))


def test_single_pixel_has_the_edges_of_its_two_sides_and_its_two_neighbours():
    image = FLAT.copy()
    image[0, 4, 5] = 255
    assert set(zip(*np.nonzero(edge_map(image)[0]), strict=True)) == {(4, 5), (4, 4), (3, 5)}


@pytest.mark.parametrize(("step", "found"), [(THRESHOLD - 1, False), (THRESHOLD, True)])
def test_edge_begins_at_the_threshold_in_either_direction(step, found):
    assert edge_map(halves(100, 100 + step)).any() == edge_map(halves(100 + step, 100)).any() == found


def test_image_agrees_with_its_own_edges_wholly_and_a_flat_one_not_at_all():
    image = halves(0, 200)
    own = edge_map(image)
    assert edge_agreement(image, own) == {"edge_f1": 1, "edge_precision": 1, "edge_recall": 1}
    assert edge_agreement(FLAT, own) == {"edge_f1": 0, "edge_precision": 1, "edge_recall": 0}
    assert edge_agreement(FLAT, np.zeros((1, 8, 8), bool))["edge_f1"] == 1


def test_agreement_is_the_harmonic_mean_and_averages_over_images():
    image = np.repeat(halves(0, 200), 2, 0)  # 8 edge pixels each
    asked = edge_map(image)
    asked[0] = False
    asked[0, :2, 3] = asked[0, :2, 6] = True  # 4 asked, of which the image has 2: precision 1/4, recall 1/2
    found = edge_agreement(image, asked)
    assert found["edge_f1"] == pytest.approx((2 * 2 / 12 + 1) / 2)
    assert found["edge_precision"] == pytest.approx((2 / 8 + 1) / 2)
    assert found["edge_recall"] == pytest.approx((2 / 4 + 1) / 2)


def test_condition_is_white_lines_on_black_in_both_forms():
    edges = edge_map(halves(0, 200))
    condition = to_condition(edges)
    assert condition.shape == (1, 3, 8, 8) and condition.unique().tolist() == [0, 1]
    assert np.array_equal(condition.permute(0, 2, 3, 1).numpy() * 255, to_images(edges))


@pytest.mark.parametrize("images", [FLAT[0], FLAT.astype(float), FLAT[..., :1]])
def test_other_images_are_refused(images):
    with pytest.raises(UserError, match=r"images: expected uint8 \(n, h, w, 3\)"):
        edge_map(images)


def test_edges_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"edges: expected bool \(1, 8, 8\)"):
        edge_agreement(FLAT, np.zeros((1, 4, 4), bool))
