"""COCO captions: which images and captions are drawn, and what the reference images are."""

import json

import numpy as np
import pytest
from PIL import Image

from ufogen.data import coco
from ufogen.errors import UserError

N = 12


@pytest.fixture
def folder(tmp_path):
    """`N` images of 40 x 30 with five captions each, one image without a caption, and a caption that is blank."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2014").mkdir()
    numbers = [7 * i + 100 for i in range(N + 1)]
    for i, number in enumerate(numbers):
        Image.new("RGB", (40, 30), (i, 2 * i, 3 * i)).save(tmp_path / "val2014" / f"{number}.png")
    captions = [
        {"id": 5 * i + j, "image_id": number, "caption": f"caption {j} of {number}\n" if (i, j) != (0, 0) else " "}
        for i, number in enumerate(numbers[:N])
        for j in range(5)
    ]
    content = {"images": [{"id": n, "file_name": f"{n}.png"} for n in numbers], "annotations": captions}
    (tmp_path / "annotations" / "captions_val2014.json").write_text(json.dumps(content))
    return tmp_path


def test_every_image_comes_once_with_a_caption_and_a_file_of_its_own(folder):
    pairs = coco.load(folder, "val2014", N, seed=0)
    assert sorted(pairs.ids) == [7 * i + 100 for i in range(N)]
    for number, caption, path in zip(pairs.ids, pairs.captions, pairs.paths, strict=True):
        assert caption.startswith("caption ") and caption.endswith(f"of {number}")
        assert path == folder / "val2014" / f"{number}.png"


def test_all_five_captions_are_drawn(folder):
    drawn = [coco.load(folder, "val2014", N, seed=seed).captions for seed in range(8)]
    assert {caption.split()[1] for captions in drawn for caption in captions} == set("01234")


def test_smaller_list_is_the_beginning_of_a_larger_and_another_seed_draws_another(folder):
    whole, part, other = (coco.load(folder, "val2014", n, seed) for n, seed in ((N, 3), (4, 3), (N, 4)))
    assert (part.ids, part.captions) == (whole.ids[:4], whole.captions[:4])
    assert other.ids != whole.ids


def test_list_does_not_depend_on_the_order_of_the_annotations(folder):
    before = coco.load(folder, "val2014", N, seed=0)
    path = folder / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: entries[::-1] for key, entries in content.items()}))
    assert coco.load(folder, "val2014", N, seed=0) == before


def test_images_are_the_middle_squares_in_the_order_of_the_paths(folder):
    wide = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    Image.fromarray(wide).save(folder / "wide.png")
    pairs = coco.load(folder, "val2014", 3, seed=0)
    found = coco.images([folder / "wide.png", *pairs.paths], 4, threads=2)
    assert found.shape == (4, 4, 4, 3) and found.dtype == np.uint8
    assert (found[0] == np.array(Image.fromarray(wide).resize((8, 4), Image.Resampling.LANCZOS))[:, 2:6]).all()
    for image, number in zip(found[1:], pairs.ids, strict=True):
        i = (number - 100) // 7
        assert (image == [i, 2 * i, 3 * i]).all()


@pytest.mark.parametrize(
    "split, n, message",
    [
        ("test2014", 1, "split is 'test2014'; allowed: train2014, val2014, train2017, val2017"),
        ("val2017", 1, "captions_val2017.json cannot be read"),
        ("val2014", N + 1, f"{N + 1} COCO prompts wanted; allowed: at most the {N} images"),
    ],
)
def test_wrong_request_is_a_user_error(folder, split, n, message):
    with pytest.raises(UserError, match=message):
        coco.load(folder, split, n, seed=0)


def test_missing_image_is_a_user_error_that_names_it(folder):
    (folder / "val2014" / "107.png").unlink()
    with pytest.raises(UserError, match=r"1 of 12 COCO images are missing, the first is .*107\.png"):
        coco.load(folder, "val2014", N, seed=0)


def test_truncated_image_is_a_user_error_that_names_it(folder):
    path = folder / "val2014" / "100.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"100\.png cannot be read"):
        coco.images([path], 8)
