"""The package's parts, their painting, and what happens when the package is not as expected."""

import json
import shutil

import numpy as np
import pytest

from ufogen.data.nouns import COUNTS, KINDS, PACKAGE, VERSION, Nouns
from ufogen.errors import UserError


def test_parts_are_as_many_as_documented(nouns):
    assert {kind: len(nouns.names[kind]) for kind in KINDS} == COUNTS
    assert {kind: nouns.layers[kind].shape for kind in KINDS} == {kind: (n, 32, 32) for kind, n in COUNTS.items()}
    assert np.prod(list(COUNTS.values())) == 50_124_360


def test_parts_have_distinct_names_and_distinct_pixels(nouns):
    for kind in KINDS:
        assert len(set(nouns.names[kind])) == COUNTS[kind], kind
        assert len(np.unique(nouns.layers[kind].reshape(COUNTS[kind], -1), axis=0)) == COUNTS[kind], kind


def test_backgrounds_are_the_two_greys(nouns):
    images = nouns.render(np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]))
    assert images[:, 0, 0].tolist() == [[0xD5, 0xD7, 0xE1], [0xE1, 0xD7, 0xD5]]


def test_parts_are_painted_over_one_another_in_order(nouns, rng):
    parts = nouns.sample(20, rng)
    images = nouns.render(parts)
    assert images.shape == (20, 32, 32, 3)
    assert images.dtype == np.uint8
    for image, row in zip(images, parts, strict=True):
        for y, x in rng.integers(0, 32, (40, 2)):
            on_top = next(
                index
                for kind, part in zip(reversed(KINDS), reversed(row.tolist()), strict=True)
                if (index := nouns.layers[kind][part, y, x])
            )
            assert image[y, x].tolist() == nouns.palette[on_top].tolist()


def test_heldout_pairs_are_one_in_twenty_and_always_the_same(nouns, node_modules):
    pairs = nouns.heldout_pairs
    assert pairs.shape == (COUNTS["head"], COUNTS["glasses"])
    assert 0.04 < pairs.mean() < 0.06
    assert not pairs.all(axis=0).any()
    assert not pairs.all(axis=1).any()  # every head and every pair of glasses is seen in training
    assert np.array_equal(pairs, Nouns.load(node_modules).heldout_pairs)
    assert np.flatnonzero(pairs.ravel())[:5].tolist() == [21, 32, 37, 46, 83]


@pytest.mark.parametrize("heldout", [False, True])
def test_training_samples_avoid_the_heldout_pairs_and_the_others_keep_to_them(nouns, rng, heldout):
    parts = nouns.sample(50_000, rng, heldout)
    assert (nouns.heldout_pairs[parts[:, 3], parts[:, 4]] == heldout).all()


def test_samples_without_a_choice_contain_both(nouns, rng):
    parts = nouns.sample(50_000, rng, heldout=None)
    assert 0.04 < nouns.heldout_pairs[parts[:, 3], parts[:, 4]].mean() < 0.06


def test_samples_cover_every_part_evenly(nouns, rng):
    n = 50_000
    parts = nouns.sample(n, rng)
    for column, kind in enumerate(KINDS):
        counts = np.bincount(parts[:, column], minlength=COUNTS[kind])
        expected = n / COUNTS[kind]
        assert len(counts) == COUNTS[kind], kind
        assert 0.5 * expected < counts.min() <= counts.max() < 1.5 * expected, kind


@pytest.fixture
def copy(node_modules, tmp_path):
    """A copy of the package that a test may damage."""
    target = tmp_path / PACKAGE
    (target / "dist").mkdir(parents=True)
    for name in ("package.json", "dist/image-data.json"):
        shutil.copy(node_modules / PACKAGE / name, target / name)
    return target


def test_copy_of_the_package_loads(copy, tmp_path, nouns):
    assert Nouns.load(tmp_path).names == nouns.names


def test_package_is_found_in_a_folder_above(copy, tmp_path, nouns, monkeypatch):
    (tmp_path / "@nouns").rename(tmp_path / "moved")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "moved").rename(tmp_path / "node_modules" / "@nouns")
    below = tmp_path / ".dvc" / "tmp" / "exps" / "experiment"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert Nouns.load("node_modules").names == nouns.names
    with pytest.raises(UserError, match="not found under other_modules"):
        Nouns.load("other_modules")


def test_missing_package_is_a_user_error_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"@nouns/assets not found under .*npm install"):
        Nouns.load(tmp_path)


def test_package_of_another_version_is_a_user_error_with_a_remedy(copy, tmp_path):
    (copy / "package.json").write_text(json.dumps({"version": "0.11.0"}))
    with pytest.raises(UserError, match=rf"is version 0\.11\.0 .*expected {VERSION}.*npm install"):
        Nouns.load(tmp_path)


def truncated(content: dict) -> str:
    return json.dumps(content)[:5000]


def without_heads(content: dict) -> str:
    del content["images"]["heads"]
    return json.dumps(content)


def with_a_short_part(content: dict) -> str:
    part = content["images"]["heads"][3]
    part["data"] = part["data"][:-8]
    return json.dumps(content)


def with_a_part_that_is_not_hexadecimal(content: dict) -> str:
    content["images"]["bodies"][0]["data"] = "0xzz"
    return json.dumps(content)


def with_an_empty_part(content: dict) -> str:
    content["images"]["bodies"][0]["data"] = "0x"
    return json.dumps(content)


@pytest.mark.parametrize(
    "damage", [truncated, without_heads, with_a_short_part, with_a_part_that_is_not_hexadecimal, with_an_empty_part]
)
def test_damaged_package_is_a_user_error_with_a_remedy(copy, tmp_path, damage):
    path = copy / "dist" / "image-data.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(UserError, match=r"is damaged .*npm install"):
        Nouns.load(tmp_path)


def test_package_that_lost_a_part_is_a_user_error(copy, tmp_path):
    path = copy / "dist" / "image-data.json"
    content = json.loads(path.read_text())
    content["images"]["heads"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'head': 253"):
        Nouns.load(tmp_path)


def test_package_without_its_description_is_a_user_error(copy, tmp_path):
    (copy / "package.json").unlink()
    with pytest.raises(UserError, match="npm install"):
        Nouns.load(tmp_path)
