"""Shards: ordinary tar files that are whole or absent and know what made them."""

import tarfile

import numpy as np
import pytest

from tests import tiny_coco
from ufogen.errors import UserError
from ufogen.evaluation import shards


def test_images_and_captions_come_back_and_the_run_is_known(tmp_path):
    path, images = tmp_path / "method" / "00003.tar", tiny_coco.pictures(3)
    assert not shards.is_of(path, "run")
    shards.write(path, images, ["a", "é", "c"], 6, "run")
    assert np.array_equal(shards.read(path), images)
    assert shards.is_of(path, "run") and not shards.is_of(path, "another")
    with tarfile.open(path) as tar:
        assert tar.getnames() == [f"{i:06d}.{suffix}" for i in (6, 7, 8) for suffix in ("png", "txt")]
        assert tar.extractfile("000007.txt").read().decode() == "é"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        shards.write(tmp_path / name, tiny_coco.pictures(2), ["a", "b"], 0, "run")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("length", [0, 100, 1700])
def test_damaged_shard_is_a_user_error(tmp_path, length):
    path = tmp_path / "00000.tar"
    shards.write(path, tiny_coco.pictures(2), ["a", "b"], 0, "run")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"00000\.tar cannot be read: .*; delete the file and run the stage sample again"):
        shards.read(path)
