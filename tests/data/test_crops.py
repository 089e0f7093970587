"""Squares of images: which part, which size, and what is done with odd files."""

import io

import numpy as np
import pytest
from PIL import Image

from ufogen.data.crops import read_rgb, square
from ufogen.errors import UserError


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("filter", ["box", "bilinear", "bicubic", "lanczos"])
def test_centre_square_is_the_middle_of_the_image_resized(filter):
    image = picture(12, 24)
    whole = np.array(image.resize((8, 4), Image.Resampling[filter.upper()]))
    assert np.array_equal(square(image, 4, filter), whole[:, 2:6])


@pytest.mark.parametrize("place, corner", [((0, 0), (0, 0)), ((1, 0), (0, 6)), ((0, 1), (0, 0)), ((0.5, 0.5), (0, 3))])
def test_place_moves_the_square_along_the_longer_side(place, corner):
    image = picture(4, 10)
    top, left = corner
    assert np.array_equal(square(image, 4, "box", place), np.array(image)[top : top + 4, left : left + 4])


def test_transparent_grey_and_turned_images_become_upright_rgb_on_white():
    transparent = read_rgb(encoded(Image.new("RGBA", (3, 3), (255, 0, 0, 0))))
    assert (np.array(transparent) == 255).all()
    assert read_rgb(encoded(Image.new("L", (3, 3), 7))).getpixel((0, 0)) == (7, 7, 7)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert read_rgb(encoded(Image.new("RGB", (5, 3)), "JPEG", exif=exif)).size == (3, 5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_file_is_a_user_error(kind):
    whole = encoded(picture(32, 32), kind)
    for damaged in (b"", b"no image", whole[: len(whole) // 2]):
        with pytest.raises(UserError, match="cannot be read"):
            read_rgb(damaged)
