"""Images as cameras and other tools write them: upright, and readable whatever their metadata hold."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.settings import make_data
from tests.shard_files import Pair, write_shard
from ufogen.data.crops import read_rgb
from ufogen.data.images import open_image, open_mask, read_image, read_image_grid, save_image_grid
from ufogen.data.shards import open_shards

SIDE = 32
# four flat quarters, which JPEG keeps apart
PIXELS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 250]]], np.uint8).repeat(16, 0).repeat(16, 1)
RATIONAL, SIGNED = 5, 10
BROKEN = {
    "-1/0": struct.pack("<ii", -1, 0),  # Pillow reads it and cannot write it again
    "-5/1": struct.pack("<ii", -5, 1),
    "0/0": struct.pack("<ii", 0, 0),
}


def exif(orientation: int, rational: bytes | None = None) -> bytes:
    """EXIF of an orientation and, where given, a resolution of these eight bytes, as a signed fraction."""
    entries = [struct.pack("<HHIHH", 274, 3, 1, orientation, 0)]
    if rational is not None:
        entries.append(struct.pack("<HHII", 282, SIGNED, 1, 8 + 2 + 12 * 2 + 4))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4) + (rational or b"")


def jpeg(data: bytes | None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", quality=95, **({} if data is None else {"exif": data}))
    return file.getvalue()


def corners(image: Image.Image) -> list[int]:
    """Which of the four colours lies in each quarter: 0 red, 1 green, 2 blue, 3 white."""
    colours = PIXELS[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    pixels = np.asarray(image.convert("RGB"), int)[[8, 8, -8, -8], [8, -8, 8, -8]]
    return [int(np.abs(colours - pixel).sum(1).argmin()) for pixel in pixels]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone_as_pillow_does(tmp_path, orientation):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(exif(orientation)))
    expected = corners(ImageOps.exif_transpose(Image.open(path)))
    assert (expected == [0, 1, 2, 3]) == (orientation == 1)
    assert corners(open_image(path, (SIDE, SIDE))) == corners(read_rgb(path.read_bytes())) == expected
    once = read_image(path, "image")
    assert corners(open_image(once, (SIDE, SIDE))) == expected  # and not turned again


@pytest.mark.parametrize("rational", BROKEN.values(), ids=BROKEN)
def test_fraction_that_cannot_be_is_no_matter_of_the_pixels(tmp_path, rational):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(exif(6, rational)))
    assert corners(open_image(path, (SIDE, SIDE))) == [2, 0, 3, 1]
    assert open_mask(path, (SIDE, SIDE), (SIDE, SIDE)).any()


@pytest.mark.parametrize(
    "data",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0XX*\0\x08\0\0\0",
        b"Exif\0\0" + bytes(40),
        exif(6)[:-9],
        exif(0),
        exif(9),
        exif(65535),
    ],
    ids=["empty", "head", "order", "zeros", "cut", "orientation 0", "orientation 9", "orientation 65535"],
)
def test_exif_that_is_none_leaves_the_image_as_it_is(tmp_path, data):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(data))
    assert open_image(path, (SIDE, SIDE)).size == (SIDE, SIDE)
    assert sorted(corners(open_image(path, (SIDE, SIDE)))) == [0, 1, 2, 3]


def test_transparent_colour_is_still_laid_on_white_when_turned(tmp_path):
    image = Image.new("P", (8, 4), 0)
    image.putpalette([0, 0, 255])
    image.save(tmp_path / "clear.png", transparency=0, exif=exif(6))
    assert read_image(tmp_path / "clear.png", "image").size == (4, 8)
    assert open_image(tmp_path / "clear.png", (4, 4)).getcolors() == [(16, (255, 255, 255))]


def test_given_image_is_left_as_it_was(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg(exif(6)))
    given = Image.open(tmp_path / "photo.jpg")
    open_image(given, (SIDE, SIDE))
    assert corners(given) == [0, 1, 2, 3] and given.getexif()[274] == 6


# captions


@pytest.mark.parametrize("caption", ["\ufeffa noun", "\ufeff  a noun\r\n"])
def test_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path, caption):
    write_shard(tmp_path / "00000.tar", [Pair(0, caption=caption), Pair(1, caption="\ufeff"), Pair(2, caption="a \ufeffnoun")])
    found = open_shards(make_data(source="webdataset", path=str(tmp_path)), tmp_path / "index")
    captions = [shard.read(row)[1] for shard, row in map(found.find, range(len(found)))]
    assert captions == ["a noun", "a \ufeffnoun"] and found.counts["without_caption"] == 1


def test_a_sheet_is_read_as_it_was_saved(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    save_image_grid(tmp_path / "sheet.png", images, columns=3)
    assert np.array_equal(read_image_grid(tmp_path / "sheet.png", rows=2), images.reshape(2, 3, 5, 5, 3))
