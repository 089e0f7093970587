"""What a base is pretrained on; a folder's pictures in tests/pipelines/test_pretrain_folder.py."""

import numpy as np
import pytest

from tests.settings import configured
from ufogen.data.pairs import make_pairs, redrawn
from ufogen.data.sources import NounsSource, open_source
from ufogen.randomness import numpy_generator


@pytest.fixture
def source(node_modules) -> NounsSource:
    c = configured(seed=5, data={"node_modules": str(node_modules)})
    return open_source(c)


def test_nouns_are_drawn_by_seed_purpose_and_key(source, nouns):
    expected = nouns.render(nouns.sample(6, numpy_generator(5, "purpose", 3)))
    assert np.array_equal(source.images(6, "purpose", 3), expected)
    assert np.array_equal(source.held_images(6, "purpose"), source.images(6, "purpose"))
    pairs, known = source.pairs(6, "purpose", 3), make_pairs(nouns, 6, 5, "purpose", 3)
    assert pairs.captions == known.captions and np.array_equal(pairs.images, known.images)
    others = redrawn(nouns, known, numpy_generator(5, "again", 3, 1))
    assert np.array_equal(source.others(pairs, "again", 3, 1), nouns.render(others))
    assert (source.side, source.identity) == (32, ())
