"""Photographs of any size as squares of the model's resolution."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ufogen import config
from ufogen.config import ResizeFilter
from ufogen.data.images import read_image, to_rgb
from ufogen.errors import UserError
from ufogen.randomness import numpy_generator

CENTER = (0.5, 0.5)


def read_rgb(source: Path | bytes) -> Image.Image:
    """A whole image file as RGB, upright and on white. Raises `UserError` where it is broken or truncated."""
    image = read_image(io.BytesIO(source) if isinstance(source, bytes) else source, "image")
    try:
        return to_rgb(image)
    except Exception as error:  # the pixels are read only now; Pillow's decoders raise many kinds
        raise UserError(f"image {'' if isinstance(source, bytes) else source} cannot be read: {error}") from error


def cut(image: Image.Image, settings: config.Data, resolution: int, seed: int, *key: int) -> np.ndarray:
    """An image as `settings.crop` says, (resolution, resolution, 3) uint8; a random place is drawn by the seed and the key.

    Raises `UserError` where nothing would be left of its shorter side.
    """
    if settings.crop == "pad":
        try:
            padded = ImageOps.pad(image, (resolution,) * 2, Image.Resampling[settings.resize_filter.upper()], color="white")
        except ValueError as error:
            raise UserError(f"image cannot be read: {image.width}x{image.height} pixels are too oblong") from error
        return np.array(padded)
    place = CENTER if settings.crop == "center" else tuple(numpy_generator(seed, "crop", *key).random(2))
    return square(image, resolution, settings.resize_filter, place)


def square(
    image: Image.Image, resolution: int, filter: ResizeFilter = "lanczos", place: tuple[float, float] = CENTER
) -> np.ndarray:
    """The largest square of an image, resized to (resolution, resolution, 3) uint8.

    `place`, each in [0, 1], says where it is cut: (0.5, 0.5) is the centre, (0, 0) left and top. The filter sees over the
    cut's edge, so this is resizing the shorter side and cutting after, without the work on what is cut away.
    """
    side = min(image.size)
    left, top = (round((length - side) * share) for length, share in zip(image.size, place, strict=True))
    resized = image.resize((resolution, resolution), Image.Resampling[filter.upper()], (left, top, left + side, top + side))
    return np.array(resized)
