"""Tar shards: what is found in them, what is left out and why, and the index."""

import io
import json
import multiprocessing
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.settings import make_data
from tests.shard_files import Pair, write_shard
from ufogen.data.shards import Shards, open_shards
from ufogen.errors import UserError


def opened(tmp_path, **settings) -> Shards:
    return open_shards(make_data(source="webdataset", path=str(tmp_path), **settings), tmp_path / "index")


def contents(shards: Shards) -> list[tuple[bytes, str]]:
    return [shard.read(row) for shard, row in map(shards.find, range(len(shards)))]


def test_every_pair_is_read_in_the_order_of_shards_and_members(tmp_path):
    pairs = [
        [Pair(10 * s + i, kind=kind, caption=f"pair {s} {i}") for i, kind in enumerate(("jpg", "png", "webp"))]
        for s in range(3)
    ]
    for s in (2, 0, 1):
        write_shard(tmp_path / f"{s:05d}.tar", pairs[s])
    found = opened(tmp_path)
    assert contents(found) == [(pair.image, pair.caption) for shard in pairs for pair in shard]
    assert found.counts["kept"] == found.counts["pairs"] == 9


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"minimum_side": 20}, "small"),
        ({"maximum_aspect_ratio": 1.5}, "oblong"),
        ({"minimum_score": 6.0}, "low_score"),
        ({"minimum_score": 6.0, "score_key": "other"}, "low_score"),
        ({}, "broken_facts"),
        ({}, "without_caption"),
        ({}, "broken_header"),
    ],
)
def test_what_fails_a_filter_is_left_out_and_counted(tmp_path, settings, reason):
    good = Pair(0, (30, 24), facts={"AESTHETIC_SCORE": 6.5, "other": 7})
    bad = {
        "small": Pair(1, (30, 19), facts={"AESTHETIC_SCORE": 7}),
        "oblong": Pair(1, (46, 30), facts={"AESTHETIC_SCORE": 7}),
        "low_score": Pair(1, (30, 24), facts={"AESTHETIC_SCORE": 5.9, "other": None}),
        "without_caption": Pair(1, (30, 24), caption=None),
        "broken_facts": Pair(1, (30, 24), facts={"width": 2**31, "height": 5}),
        "broken_header": Pair(1, (30, 24)),
    }[reason]
    path = write_shard(tmp_path / "00000.tar", [bad, good])
    if reason == "broken_header":
        path.write_bytes(path.read_bytes().replace(bad.image[:16], bytes(16), 1))
    found = opened(tmp_path, **settings)
    assert contents(found) == [(good.image, good.caption)]
    assert found.counts[reason] == 1 and found.counts["kept"] == 1 and found.counts["pairs"] == 2


def test_size_is_taken_from_the_facts_where_they_have_it(tmp_path):
    write_shard(tmp_path / "00000.tar", [Pair(0, (8, 8), facts={"width": 600, "height": 500}), Pair(1, (8, 8))])
    assert len(opened(tmp_path, minimum_side=500)) == 1


def test_blank_caption_counts_as_none(tmp_path):
    write_shard(tmp_path / "00000.tar", [Pair(0, caption=" \n"), Pair(1)])
    assert opened(tmp_path).counts["without_caption"] == 1


@pytest.mark.parametrize(
    "facts",
    [{"width": 2**31, "height": 5}, {"width": 0, "height": -7}, {"AESTHETIC_SCORE": int("9" * 400)}, {"AESTHETIC_SCORE": 1e39}],
    ids=["wide", "negative", "400 digits", "beyond float32"],
)
def test_a_number_that_no_image_has_is_counted_and_the_rest_is_read(tmp_path, facts):
    write_shard(tmp_path / "00000.tar", [Pair(0, facts=facts), Pair(1)])
    found = opened(tmp_path)
    assert found.counts["broken_facts"] == 1 and contents(found) == [(Pair(1).image, Pair(1).caption)]


def test_facts_that_cannot_be_read_are_none(tmp_path):
    path = write_shard(tmp_path / "00000.tar", [Pair(0, facts={"x": "?" * 40_000})])
    deep = json.dumps({"x": "?" * 40_000}).encode()
    path.write_bytes(path.read_bytes().replace(deep, b"[" * len(deep)))
    assert len(opened(tmp_path)) == 1


def test_a_score_written_as_text_is_a_score(tmp_path):
    scores = ("6.5", " 7", "high", "", None, [7])
    write_shard(tmp_path / "00000.tar", [Pair(i, facts={"AESTHETIC_SCORE": score}) for i, score in enumerate(scores)])
    found = opened(tmp_path, minimum_score=6.0)
    assert found.counts["low_score"] == 4 and contents(found) == [(Pair(i).image, Pair(i).caption) for i in (0, 1)]


def test_names_end_at_the_last_dot_and_those_of_macos_are_left_out(tmp_path):
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.v2.PNG", "a.v2.txt", "b.png", "sub.d/._b.png", "._b.png", "._b.txt", "c.v1.png", "c"):
            data = b"a caption" if name.endswith("txt") else Pair(0).image
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (tmp_path / "._00000.tar").write_bytes(b"macOS")
    found = opened(tmp_path)
    assert contents(found) == [(Pair(0).image, "a caption")]
    assert found.counts | {"shards": 1, "pairs": 3, "without_caption": 2, "kept": 1} == found.counts


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_is_called_a_shard_and_is_none_is_counted(tmp_path, kind):
    write_shard(tmp_path / "00000.tar", [Pair(0)])
    odd = tmp_path / "x.tar"
    odd.mkdir() if kind == "folder" else odd.symlink_to("nowhere")
    found = opened(tmp_path)
    assert found.counts["broken_shards"] == 1 and len(found) == 1
    odd.rmdir() if kind == "folder" else odd.unlink()
    write_shard(odd, [Pair(1)])
    assert len(opened(tmp_path)) == 2


def test_an_error_of_another_kind_in_a_damaged_shard_is_counted(tmp_path, monkeypatch):
    def fail(tar):
        raise ValueError("negative seek position")

    write_shard(tmp_path / "00000.tar", [Pair(0)])
    opened(tmp_path)
    write_shard(tmp_path / "00001.tar", [Pair(1)])
    monkeypatch.setattr(tarfile.TarFile, "getmembers", fail)
    assert opened(tmp_path).counts["broken_shards"] == 1


def test_captions_come_from_the_key_of_the_facts_that_is_named(tmp_path):
    odd = "two\nlines and half a pair \ud83d"
    facts = [{"caption": "\ufeffin json"}, {"caption": odd}, {"caption": 5}, {"other": "x"}, None]
    write_shard(tmp_path / "00000.tar", [Pair(i, caption="in txt" if i else None, facts=f) for i, f in enumerate(facts)])
    found = opened(tmp_path, caption_key="caption")
    assert [caption for _, caption in contents(found)] == ["in json", "two lines and half a pair ?"]
    assert found.counts["without_caption"] == 3
    assert [caption for _, caption in contents(opened(tmp_path))] == ["in txt"] * 4


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.77, "no end", "bad header"])
def test_truncated_or_damaged_shard_is_skipped_and_counted(tmp_path, share):
    write_shard(tmp_path / "00000.tar", [Pair(0), Pair(1)])
    path = write_shard(tmp_path / "00001.tar", [Pair(i) for i in range(2, 8)])
    data = path.read_bytes()
    if share == "no end":  # cut exactly where a member ends
        path.write_bytes(data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512))
    elif share == "bad header":
        middle = data.index(b"000010003.png")
        path.write_bytes(data[:middle] + b"?" * 512 + data[middle + 512 :])
    else:
        path.write_bytes(data[: int(len(data) * share)])
    found = opened(tmp_path)
    assert found.counts["broken_shards"] == 1 and len(found) == 2
    assert found.shards[1].broken


def test_index_is_made_once_and_again_when_the_shard_changes(tmp_path):
    path = write_shard(tmp_path / "00000.tar", [Pair(0)])
    opened(tmp_path)
    index = tmp_path / "index" / "00000.npz"
    before = index.stat().st_mtime_ns
    opened(tmp_path)
    assert index.stat().st_mtime_ns == before
    write_shard(path, [Pair(0), Pair(1)])
    assert len(opened(tmp_path)) == 2


def test_processes_share_the_indexing(tmp_path):
    for s in range(5):
        write_shard(tmp_path / f"{s:05d}.tar", [Pair(s)])
    settings = make_data(source="webdataset", path=str(tmp_path))
    index, done = tmp_path / "index", []

    def wait() -> None:
        done.extend(sorted(path.stem for path in index.iterdir()))

    assert len(open_shards(settings, index, rank=1, world_size=2, wait=wait)) == 5
    assert done == ["00001", "00003"]
    assert sorted(path.name for path in index.iterdir()) == [f"{s:05d}.npz" for s in range(5)]


def test_processes_that_index_the_same_shards_at_once_do_not_collide(tmp_path):
    for s in range(4):
        write_shard(tmp_path / f"{s:05d}.tar", [Pair(s) for s in range(50)])
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(count, [tmp_path] * 4) == [200] * 4
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [f"{s:05d}.npz" for s in range(4)]


def count(folder: Path) -> int:
    return len(opened(folder))


def test_keys_do_not_depend_on_filters_or_other_shards(tmp_path):
    write_shard(tmp_path / "00007.tar", [Pair(0, (4, 4)), Pair(1), Pair(2)])
    whole = opened(tmp_path)
    keys = [shard.key(row) for shard, row in map(whole.find, range(3))]
    write_shard(tmp_path / "00003.tar", [Pair(3)])
    part = opened(tmp_path, minimum_side=8)
    assert [shard.key(row) for shard, row in map(part.find, (1, 2))] == keys[1:]
    assert len({*keys, part.shards[0].key(0)}) == 4


def test_folder_without_shards_or_captions_or_with_all_left_out_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="data.path '' has no shard"):
        open_shards(make_data(source="webdataset"), tmp_path / "index")
    with pytest.raises(UserError, match="has no shard"):
        opened(tmp_path)
    path = write_shard(tmp_path / "00000.tar", [Pair(0, caption=None)])
    with pytest.raises(UserError, match="has no image with a caption"):
        opened(tmp_path)
    write_shard(path, [Pair(0), Pair(1)])
    with pytest.raises(UserError, match="'kept': 0.*'small': 2"):
        opened(tmp_path, minimum_side=17)
    assert np.array_equal(opened(tmp_path).rows[0], [0, 1])
