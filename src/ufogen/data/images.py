"""Images that users give: any kind Pillow reads, as what the model takes. Bad ones raise `UserError`. And sheets of ours."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ufogen.errors import UserError

MAX_PIXELS = 100_000_000  # of an image given; a small file can unpack to far more

SCALE = 4  # screen pixels for a pixel of the art in sheets

Picture = Image.Image | str | Path
# what undoes each EXIF orientation but 1, which is upright
TURNS = dict(zip(range(2, 9), (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), strict=True))  # fmt: skip


def open_image(image: Picture, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Any image as RGB of `size`: upright, on white, its middle cut out, each pixel the mean of those it covers."""
    return ImageOps.fit(to_rgb(read_image(image, "image", max_pixels)), size, Image.Resampling.BOX)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, on white where it is transparent."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return _eight_bits(image).convert("RGB")


def open_mask(mask: Picture, size: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
    """A mask (h, w) bool of `size`, true where it is rather white than black. Raises `UserError` where nothing is."""
    mask, (width, height) = read_image(mask, "mask"), image_size
    if mask.width * height != mask.height * width:
        raise UserError(f"the mask, {mask.width}x{mask.height}, does not have the shape of the image, {width}x{height}")
    if mask.has_transparency_data:
        mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask.convert("RGBA"))
    white = np.asarray(ImageOps.fit(_eight_bits(mask).convert("L"), size, Image.Resampling.BOX)) >= 128
    if not white.any():
        raise UserError("the mask is black everywhere: paint white what is to be drawn anew")
    return white


def read_image(image: Picture, what: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    name = "" if isinstance(image, Image.Image) else f" {image}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit is a warning; ours follows
            opened = image if isinstance(image, Image.Image) else Image.open(image)
            if opened.width * opened.height > max_pixels:
                raise UserError(f"{what}{name} has {opened.width}x{opened.height} pixels; allowed: {max_pixels:,} in all")
            opened.load()
            return _upright(opened)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise UserError(f"{what}{name} cannot be read: {reason}") from error


def save_image_grid(path: Path, images: np.ndarray, columns: int) -> None:
    """Images (n, h, w, 3) uint8 as one PNG, `columns` a row, each pixel enlarged."""
    n, h, w, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * columns, h, w, 3), 255, np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(rows, columns, h, w, 3).swapaxes(1, 2).reshape(rows * h, columns * w, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((columns * w * SCALE, rows * h * SCALE), Image.Resampling.NEAREST).save(path)


def read_image_grid(path: Path, rows: int) -> np.ndarray:
    """The square images of a PNG by `save_image_grid`, (rows, columns, h, w, 3), where all rows are full."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))[::SCALE, ::SCALE]
    side = len(pixels) // rows
    return pixels.reshape(rows, side, -1, side, 3).swapaxes(1, 2)


def _upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF says. What else stands there, and may be broken, is no matter of the pixels."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow's reader of EXIF raises many kinds
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow would cut 16-bit grey at 255 instead of scaling it."""
    if image.mode.startswith("I") and (image.mode != "I" or image.getextrema()[1] > 255):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image
