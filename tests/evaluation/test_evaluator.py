"""What samples are worth, against the functions that it gathers."""

import numpy as np
import pytest
import torch

from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs, make_pairs
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.evaluator import METRICS, Evaluator
from ufogen.evaluation.fidelity import fidelity

N = 12


@pytest.fixture(scope="module")
def asked(nouns: Nouns) -> Pairs:
    return make_pairs(nouns, N, 0, "samples")


@pytest.fixture(scope="module")
def reference(nouns: Nouns) -> torch.Tensor:
    return features.extract(make_pairs(nouns, 2 * N, 0, "reference").images)


@pytest.mark.parametrize("given, used", [(None, N // 2), (5, 5), (100, N)])
def test_it_is_fidelity_with_subsets_that_the_samples_allow_and_the_mean_attribute(nouns, asked, reference, given, used):
    evaluator = Evaluator(reference, nouns, torch.device("cpu"), seed=4, neighborhood=2, kid_subsets=3, kid_subset_size=given)
    spoiled = asked.images.copy()
    spoiled[:4] = spoiled[4:8]  # others' pictures
    found = evaluator(spoiled, asked)
    expected = fidelity(features.extract(spoiled), reference, seed=4, kid_subset_size=used, kid_subsets=3, neighborhood=2)
    right = attribute_accuracy(spoiled, asked.parts, asked.mentioned, nouns)["mean"]
    assert found == expected | {"attribute_accuracy": right} and right < 1
    assert set(METRICS) <= set(found)
    assert np.isclose(evaluator.attributes(asked.images, asked)["mean"], 1)
