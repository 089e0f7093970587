"""Samples in tar files as WebDataset reads them: 000016.png and its caption 000016.txt. A file is whole or absent."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from ufogen.errors import UserError
from ufogen.files import write_whole


def write(path: Path, images: np.ndarray, captions: list[str], first: int, run: str) -> None:
    """Images (n, h, w, 3) uint8 with their captions, numbered from `first`; `run` names what made them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": run}) as tar:
        for number, (image, caption) in enumerate(zip(images, captions, strict=True), first):
            picture = io.BytesIO()
            Image.fromarray(image).save(picture, "PNG")
            for suffix, content in (("png", picture.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}*.partial"):  # by a writer that was killed
        left.unlink()
    write_whole(path, buffer.getvalue())


def is_of(path: Path, run: str) -> bool:
    """Whether the file is there and was made by `run`."""
    try:
        with tarfile.open(path, "r:") as tar:
            return tar.pax_headers.get("comment") == run
    except (OSError, tarfile.TarError):
        return False


def read(path: Path) -> np.ndarray:
    """The images (n, h, w, 3) uint8 of a shard in their order. Raises `UserError` where it is damaged."""
    try:
        with tarfile.open(path, "r:") as tar:
            pictures = [tar.extractfile(member) for member in tar if member.name.endswith(".png")]
            return np.stack([np.array(Image.open(picture)) for picture in pictures])
    except (OSError, ValueError, SyntaxError, tarfile.TarError) as error:  # Pillow raises the third for a bad chunk
        raise UserError(f"samples {path} cannot be read: {error}; delete the file and run the stage sample again") from error
