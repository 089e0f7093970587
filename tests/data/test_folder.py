"""A folder of own pictures: what is found, what is left out and why, and what is kept from training."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.folder_files import picture, pictures_folder, save
from tests.settings import make_data
from ufogen.data.crops import cut, read_rgb
from ufogen.data.folder import Folder, sets
from ufogen.errors import UserError


def opened(path, seed: int = 0, **settings) -> Folder:
    small = {"source": "folder", "path": str(path), "resolution": 8, "evaluation_size": 1, "workers": 2}
    return Folder(make_data(**small | settings), seed)


def test_captions_come_from_metadata_or_from_the_text_beside_a_picture(tmp_path):
    pictures_folder(tmp_path, 6)
    found = opened(tmp_path)
    assert found.names == ["0.png", "2.png", "4.png", "below/1.jpg", "below/3.jpg", "below/5.jpg"]
    assert found.captions == ["the head 0", "the head 2", "the head 4", "a noun 1", "a noun 3", "a noun 5"]
    assert found.images.shape == (6, 8, 8, 3) and found.images.dtype == np.uint8
    assert np.array_equal(found.images[1], cut(picture(2), found.settings, 8, 0))
    assert found.counts == {"images": 6, "kept": 6}


def test_metadata_of_a_folder_below_counts_from_there_and_goes_before_a_text(tmp_path):
    save(tmp_path / "a/x.png", 0, "in the text")
    save(tmp_path / "a/b/y.PNG", 1)
    (tmp_path / "a/metadata.jsonl").write_bytes(
        b'\xef\xbb\xbf{"file_name": "x.png", "text": "in metadata"}\r\n\r\n{"file_name": "b/y.PNG", "text": "\xe9\xaf\x8a"}\n'
    )
    found = opened(tmp_path)
    assert dict(zip(found.names, found.captions, strict=True)) == {"a/x.png": "in metadata", "a/b/y.PNG": "鯊"}


def test_another_key_of_the_caption(tmp_path):
    save(tmp_path / "x.png", 0)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "x.png", "text": "no", "caption": "yes"}')
    assert opened(tmp_path, caption_key="caption").captions == ["yes"]


HARM = {
    "without_caption": lambda folder: save(folder / "bad.png", 99),
    "broken_header": lambda folder: save(folder / "bad.png", 99, "a").write_bytes(b"\x89PNG"),
    "broken_images": lambda folder: cut_short(save(folder / "bad.png", 99, "a")),
    "missing_images": lambda folder: add_line(folder, {"file_name": "bad.png", "text": "a"}),
    "broken_lines": lambda folder: add_line(folder, {"text": "bad.png"}),
    "broken_facts": lambda folder: (
        save(folder / "bad.png", 99) and add_line(folder, {"file_name": "bad.png", "text": "a", "AESTHETIC_SCORE": 10**400})
    ),
}


def cut_short(path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def add_line(folder, line: dict) -> None:
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize("reason", HARM)
def test_what_cannot_be_used_is_counted_or_refused_by_name(tmp_path, reason):
    pictures_folder(tmp_path, 4)
    whole = opened(tmp_path, broken="refuse")
    HARM[reason](tmp_path)
    found = opened(tmp_path)
    assert found.counts[reason] == 1 and found.counts["kept"] == 4
    assert np.array_equal(found.images, whole.images) and found.captions == whole.captions
    with pytest.raises(
        UserError, match=r"(bad\.png|metadata\.jsonl has no image's file_name in line 3).*data\.broken=skip"
    ) as error:
        opened(tmp_path, broken="refuse")
    assert "\n" not in str(error.value)


def test_filters_are_those_of_shards_and_are_never_refused(tmp_path):
    pictures_folder(tmp_path, 4)
    save(tmp_path / "small.png", 9, "a", (30, 7))
    found = opened(tmp_path, minimum_side=8, broken="refuse")
    assert found.counts["small"] == 1 and found.counts["kept"] == 4
    assert opened(tmp_path, maximum_aspect_ratio=2.0).counts["oblong"] == 1


def test_the_same_picture_twice_counts_once_and_hidden_files_not_at_all(tmp_path):
    pictures_folder(tmp_path, 4)
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    (tmp_path / "copy.txt").write_text("a copy")
    (tmp_path / "._0.png").write_bytes(b"macOS")
    save(tmp_path / ".thumbnails/0.png", 7, "hidden")
    found = opened(tmp_path)
    assert found.counts["repeated"] == 1 and found.counts["images"] == 5 and found.counts["kept"] == 4


def test_pictures_kept_from_training_are_drawn_by_the_seed_and_stay_when_others_come(tmp_path):
    pictures_folder(tmp_path, 40)
    found, other = opened(tmp_path, evaluation_size=10), opened(tmp_path, seed=1, evaluation_size=10)
    assert len(found.held) == 10 and sorted([*found.held, *found.rest]) == list(range(40))
    assert set(found.held) != set(other.held)
    held = {found.names[i] for i in found.held}
    for i in range(3):
        save(tmp_path / f"new{i}.png", 100 + i, "new")
    more = opened(tmp_path, evaluation_size=10)
    assert len(held & {more.names[i] for i in more.held}) >= 7
    assert found.identity != more.identity and found.identity == opened_without(tmp_path).identity


def opened_without(path) -> Folder:
    for new in path.glob("new*"):
        new.unlink()
    return opened(path, evaluation_size=10)


def test_no_set_but_evaluation_has_a_picture_that_is_kept_from_training(tmp_path):
    found = opened(pictures_folder(tmp_path, 20), evaluation_size=6)
    made = sets(found)
    assert {name: len(pairs) for name, pairs in made.items()} == {
        "train": 14, "validation": 6, "validation_floor": 12, "evaluation": 6, "floor": 6,
    }  # fmt: skip
    held = {image.tobytes() for image in made.pop("evaluation").images}
    assert len(held) == 6
    for pairs in made.values():
        assert held.isdisjoint(image.tobytes() for image in pairs.images) and len(pairs.captions) == len(pairs.images)


@pytest.mark.parametrize("n", [1, 14, 15, 100])
def test_drawn_pictures_are_of_the_rest_and_equally_often(tmp_path, n):
    found = opened(pictures_folder(tmp_path, 20), evaluation_size=6)
    rows = found.drawn(n, "test", 3)
    times = np.unique(rows, return_counts=True)[1]
    assert len(rows) == n and set(rows) <= set(found.rest) and times.max() - times.min() <= 1
    assert np.array_equal(rows, found.drawn(n, "test", 3))
    assert n == 1 or not np.array_equal(rows, found.drawn(n, "test", 4))


def test_padding_keeps_the_whole_picture_on_white_and_a_line_is_left_out(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    Image.new("RGB", (3000, 1)).save(tmp_path / "line.png")
    for name in ("a", "line"):
        (tmp_path / f"{name}.txt").write_text(name)
    found = opened(tmp_path, crop="pad")
    assert found.captions == ["a"] and found.counts["broken_images"] == 1
    assert (found.images[0, [0, 1, 6, 7]] == 255).all() and (found.images[0, 2:6] == 0).all()


def test_a_random_crop_is_of_the_picture_alone(tmp_path):
    pictures_folder(tmp_path, 4)
    first = opened(tmp_path, crop="random")
    save(tmp_path / "-.png", 50, "new")
    second = opened(tmp_path, crop="random")
    assert np.array_equal(second.images[1:], first.images)
    assert not np.array_equal(first.images, opened(tmp_path, crop="center").images[1:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, r"^data\.path '' is no folder; wanted: images with metadata\.jsonl"),
        ({"path": "absent"}, r"^data\.path 'absent' is no folder"),
        (
            {"resolution": 0},
            r"^parameter data\.resolution is 0; allowed with data\.source folder: a whole number, 1 or greater",
        ),
        ({}, r"^data\.path .* has no picture that can be used: .*; wanted: images"),
    ],
)
def test_a_folder_without_pictures_is_one_line(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        opened(**{"path": tmp_path} | settings)


def test_pictures_of_any_mode_are_on_white(tmp_path):
    Image.new("RGBA", (16, 16)).save(tmp_path / "clear.png")
    (tmp_path / "clear.txt").write_text("nothing")
    assert (opened(tmp_path).images == 255).all()
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "clear.png")), np.full((16, 16, 3), 255))
