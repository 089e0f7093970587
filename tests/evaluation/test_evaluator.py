"""The evaluator's rows, against the functions that it gathers: of all images, and apart by what captions name."""

import json

import numpy as np
import pytest
import torch

from ufogen.data.pairs import make_pairs
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.evaluator import COLUMNS, KID_IMAGES, METRICS, Evaluator
from ufogen.evaluation.exact import EXACT, exact_measures, read
from ufogen.evaluation.fidelity import fidelity

N = 12


def shades(images: np.ndarray, **_) -> torch.Tensor:
    """In place of the feature network: 12 means of each image, in no unit."""
    return torch.from_numpy(images.reshape(len(images), 2, 16, 2, 16, 3).mean((2, 4)).reshape(len(images), 12) / 64).float()


@pytest.fixture
def evaluator(nouns, monkeypatch) -> Evaluator:
    monkeypatch.setattr(features, "extract", shades)
    real = shades(make_pairs(nouns, 300, 0, "reference").images)
    return Evaluator(real, nouns, torch.device("cpu"), seed=0, neighborhood=3, kid_subsets=20, kid_subset_size=120)


@pytest.fixture
def asked(nouns):
    """All captions but the first 60 name two attributes."""
    pairs = make_pairs(nouns, 200, 0, "evaluator")
    pairs.mentioned[:] = False
    pairs.mentioned[:, 3] = pairs.mentioned[60:, 4] = True
    pairs.mentioned[:20] = [True, False, False, False, False]
    return pairs


def test_the_row_of_all_images_and_those_of_some_captions(evaluator, asked, nouns):
    images = 255 - (255 - np.array(asked.images)) // 2
    rows = evaluator.rows(images, asked)
    assert [(row["named"], row["n"]) for row in rows] == [("all", 200), ("1", 60), ("2", 140)]
    whole, one, two = rows
    reading = read(images, asked.parts, asked.mentioned, nouns)
    found = fidelity(shades(images), evaluator.reference, seed=0, kid_subset_size=120, kid_subsets=20)
    expected = found | exact_measures(reading)
    assert {name: whole[name] for name in expected} == expected == evaluator(images, asked)
    assert exact_measures(reading.where(np.arange(60, 200))).items() <= two.items()
    assert set(METRICS) <= set(whole)
    assert not {"fd_lite0", "precision", "recall"} & (set(one) | set(two))
    assert "kid_lite0" not in one and "kid_lite0" in two and one["n"] < KID_IMAGES <= two["n"]
    assert two["kid_lite0"] == pytest.approx(whole["kid_lite0"], abs=4 * two["standard_error"]["kid_lite0"])
    assert set(COLUMNS) - set(whole) == {
        "method", "sampler", "steps", "guidance", "seed", "attribute_accuracy_heldout", "seconds_per_image",
    }  # fmt: skip


def test_what_stands_beside_a_row_says_how_noisy_it_is_and_what_real_images_show(evaluator, asked):
    whole, one, two = evaluator.rows(np.array(asked.images), asked)
    assert set(whole["standard_error"]) == (set(EXACT) - {"open_heads"}) | {"kid_lite0"}
    assert one["standard_error"]["distinct_open_heads"] > 0
    assert "head_bits" not in two and "head" not in two["coverage"]  # all of these captions name the head
    assert whole["coverage"]["head"]["open"] == whole["open_heads"] == 20
    assert whole["accuracy_by_kind"] == {"background": 1, "head": 1, "glasses": 1}
    assert (whole["kid_subset_size"], two["kid_subset_size"]) == (120, 120)
    json.dumps([whole, one, two], allow_nan=False)


@pytest.mark.parametrize("given, used", [(None, N // 2), (5, 5), (100, N)])
def test_it_is_fidelity_with_subsets_that_the_samples_allow_and_the_mean_attribute(nouns, given, used):
    asked, real = make_pairs(nouns, N, 0, "samples"), make_pairs(nouns, 2 * N, 0, "reference")
    reference = features.extract(real.images)
    evaluator = Evaluator(reference, nouns, torch.device("cpu"), seed=4, neighborhood=2, kid_subsets=3, kid_subset_size=given)
    spoiled = asked.images.copy()
    spoiled[:4] = spoiled[4:8]  # others' pictures
    found = evaluator(spoiled, asked)
    expected = fidelity(features.extract(spoiled), reference, seed=4, kid_subset_size=used, kid_subsets=3, neighborhood=2)
    right = attribute_accuracy(spoiled, asked.parts, asked.mentioned, nouns)["mean"]
    exact = exact_measures(read(spoiled, asked.parts, asked.mentioned, nouns))
    assert found == expected | exact and found["attribute_accuracy"] == right < 1
    assert set(METRICS) <= set(found)
    assert evaluator(asked.images, asked)["attribute_accuracy"] == 1
