"""Pairs are functions of the seed, the purpose and their number."""

import numpy as np
import pytest

from ufogen.data import pairs as module
from ufogen.data.nouns import KINDS
from ufogen.data.pairs import Pairs, heldout_pairs, make_pairs, read_pairs, redrawn, write_pairs


def equal(a: Pairs, b: Pairs) -> bool:
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("images", "parts", "mentioned"))
    return arrays and a.captions == b.captions


def test_pairs_are_the_same_for_the_same_seed(nouns):
    assert equal(make_pairs(nouns, 100, 0, "train", 3), make_pairs(nouns, 100, 0, "train", 3))
    assert equal(heldout_pairs(nouns, 100, 0, "heldout"), heldout_pairs(nouns, 100, 0, "heldout"))


@pytest.mark.parametrize("change", [(1, "train", 3), (0, "evaluation", 3), (0, "train", 4)])
def test_pairs_differ_with_seed_purpose_and_number(nouns, change):
    first, second = make_pairs(nouns, 100, 0, "train", 3), make_pairs(nouns, 100, *change)
    assert not np.array_equal(first.parts, second.parts)
    assert first.captions != second.captions


def test_pairs_do_not_depend_on_the_number_of_threads(nouns, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 16)
    assert equal(make_pairs(nouns, 50, 0, "train", threads=1), make_pairs(nouns, 50, 0, "train", threads=2))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 50])
def test_as_many_pairs_as_asked_for(nouns, monkeypatch, n):
    monkeypatch.setattr(module, "BLOCK", 16)
    pairs = make_pairs(nouns, n, 0, "train")
    assert [len(pairs.images), len(pairs.captions), len(pairs.parts), len(pairs.mentioned)] == [n] * 4
    assert len(np.unique(pairs.parts, axis=0)) == n  # no block repeats another


def test_images_show_their_parts(nouns):
    for pairs in (make_pairs(nouns, 100, 0, "train"), heldout_pairs(nouns, 100, 0, "heldout")):
        assert np.array_equal(pairs.images, nouns.render(pairs.parts))


def test_training_pairs_never_show_a_heldout_pair(nouns):
    parts = make_pairs(nouns, 20_000, 0, "train").parts
    assert not nouns.heldout_pairs[parts[:, 3], parts[:, 4]].any()


def test_heldout_captions_name_head_and_glasses_and_none_to_three_things_more_equally_often(nouns):
    pairs = heldout_pairs(nouns, 8000, 0, "heldout")
    assert nouns.heldout_pairs[pairs.parts[:, 3], pairs.parts[:, 4]].all()
    assert pairs.mentioned[:, [KINDS.index("head"), KINDS.index("glasses")]].all()
    counts = np.bincount(pairs.mentioned.sum(axis=1), minlength=6)
    assert counts[:2].sum() == 0 and np.allclose(counts[2:] / 8000, 0.25, atol=0.02)
    assert np.allclose(pairs.mentioned[:, :3].mean(axis=0), 0.5, atol=0.02)


def test_a_set_is_read_as_it_was_written_and_a_part_of_it_is_its_rows(nouns, tmp_path):
    pairs = make_pairs(nouns, 5, 0, "train")
    write_pairs(tmp_path / "set", pairs)
    read = read_pairs(tmp_path / "set")
    assert equal(read, pairs) and len(read) == 5
    part = read[1:3]
    assert len(part) == 2 and part.captions == pairs.captions[1:3]
    assert all((getattr(part, name) == getattr(pairs, name)[1:3]).all() for name in ("images", "parts", "mentioned"))


def test_redrawn_characters_fit_the_captions_and_show_no_heldout_pair(nouns, rng):
    pairs = make_pairs(nouns, 5000, 0, "train")
    parts = redrawn(nouns, pairs, rng)
    assert np.array_equal(parts[pairs.mentioned], pairs.parts[pairs.mentioned])
    assert not nouns.heldout_pairs[parts[:, 3], parts[:, 4]].any()
    changed = (parts != pairs.parts)[~pairs.mentioned]
    assert changed.mean() > 0.8  # half of the backgrounds alone stay by chance
    assert np.array_equal(pairs.parts, make_pairs(nouns, 5000, 0, "train").parts)
