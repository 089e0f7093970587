"""Folders of own pictures made on the spot."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """An image of `size` (width, height) that only `seed` knows."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


def save(path: Path, seed: int, caption: str | None = None, size: tuple[int, int] = (20, 16)) -> Path:
    """A picture, and its caption in a NAME.txt beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def pictures_folder(folder: Path, n: int) -> Path:
    """Half of `n` pictures in metadata.jsonl, half with a .txt in a folder below."""
    lines = []
    for i in range(n):
        if i % 2:
            save(folder / "below" / f"{i}.jpg", i, f"a noun {i}")
        else:
            save(folder / f"{i}.png", i)
            lines.append({"file_name": f"{i}.png", "text": f"the head {i}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
