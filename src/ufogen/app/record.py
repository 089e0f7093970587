"""Pictures as PNG files: a grid of them, each pixel enlarged, with the record of how they were made."""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ufogen.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from ufogen.inference.api import UFOGen

RECORD = "ufogen"  # the key under which a PNG says how it was made
WIDTH = 128  # screen pixels that a small picture is enlarged to
MAX_SIDE = 16384  # of a grid


def version() -> str:
    try:
        return importlib.metadata.version("ufogen")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def columns_of(n: int, prompts: int, image_size: tuple[int, int], scale: int) -> int:
    """Of the grid: a row for each of several prompts, or a square."""
    count = prompts * max(n, 1)
    columns = n if prompts > 1 < n else math.ceil(math.sqrt(count))
    if max(columns * image_size[0], math.ceil(count / columns) * image_size[1]) * scale > MAX_SIDE:
        raise UserError(f"a grid of {count} pictures at scale {scale} is too large: write a folder, as -o FOLDER/")
    return columns


def enlargement(model: UFOGen) -> int:
    return max(1, WIDTH // model.image_size[0])


def grid(images: list[Image.Image], columns: int, scale: int) -> Image.Image:
    """One picture, `columns` a row, each pixel enlarged."""
    from PIL import Image

    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def png(image: Image.Image, record: dict | None = None) -> bytes:
    """The file's bytes, with the record as JSON in ASCII, which a tEXt chunk can hold whatever the prompt's script."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    if record is not None:
        text.add_text(RECORD, json.dumps(record))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()


def read_record(path: Path) -> dict:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            record = json.loads(getattr(image, "text", {})[RECORD])
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        raise UserError(f"{path} is neither a model folder nor a picture made by ufogen") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} has a damaged record")
    return record
