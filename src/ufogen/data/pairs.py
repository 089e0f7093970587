"""Image-caption pairs of a source, each a pure function of the seed, the purpose and its number."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ufogen.data.captions import attribute_phrases, captions, mentioned_attributes
from ufogen.data.nouns import KINDS, Nouns
from ufogen.errors import UserError
from ufogen.randomness import numpy_generator

T = TypeVar("T")
BLOCK = 4096  # pairs that share one random generator


@dataclass
class Pairs:
    """`images` (n, side, side, 3) uint8, `captions` n strings, `parts` and `mentioned` (n, 5): what is shown and what is said.

    The last two are None where it is not known, as of own pictures.
    """

    images: np.ndarray
    captions: list[str]
    parts: np.ndarray | None = None
    mentioned: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, rows: slice) -> Pairs:
        known = () if self.parts is None else (self.parts[rows], self.mentioned[rows])
        return Pairs(self.images[rows], self.captions[rows], *known)


def write_pairs(folder: Path, pairs: Pairs) -> None:
    """Write a set as a new folder of a file each."""
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", pairs.images)
    if pairs.parts is not None:
        np.save(folder / "parts.npy", pairs.parts)
        np.save(folder / "mentioned.npy", pairs.mentioned)
    (folder / "captions.json").write_text(json.dumps(pairs.captions, indent=0))


def read_pairs(folder: Path) -> Pairs:
    """A set that `write_pairs` wrote; its images are memory-mapped. Raises `UserError` where it is missing or damaged."""
    return read_output(folder, "prepare", _read_pairs)


def _read_pairs(folder: Path) -> Pairs:
    known = [np.load(folder / f"{name}.npy") for name in ("parts", "mentioned") if (folder / f"{name}.npy").is_file()]
    images, captions = np.load(folder / "images.npy", mmap_mode="r"), json.loads((folder / "captions.json").read_text())
    if images.ndim != 4 or images.dtype != np.uint8 or not isinstance(captions, list) or not all(map(_is_text, captions)):
        raise ValueError("it holds no images with captions")
    if {len(part) for part in (images, *known)} != {len(captions)}:
        raise ValueError(f"it holds {len(images)} images and {len(captions)} captions")
    return Pairs(images, captions, *known)


def _is_text(caption: object) -> bool:
    return isinstance(caption, str)


def read_output(path: Path, stage: str, reader: Callable[[Path], T]) -> T:
    """What `reader` makes of an output of the stage. Raises `UserError` where it is missing or cannot be read."""
    try:
        return reader(path)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise UserError(f"{missing} not found: run the stage {stage} first (dvc repro {stage})") from error
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): run the stage {stage} again (dvc repro --force {stage})") from error


def make_pairs(nouns: Nouns, n: int, seed: int, purpose: str, number: int = 0, threads: int = 1) -> Pairs:
    """`n` training pairs, without held-out (head, glasses) pairs."""
    phrases = attribute_phrases(nouns)

    def block(i: int) -> Pairs:
        rng = numpy_generator(seed, purpose, number, i)
        size = min(BLOCK, n - i * BLOCK)
        parts, mentioned = nouns.sample(size, rng), mentioned_attributes(size, rng)
        return Pairs(nouns.render(parts), captions(parts, mentioned, phrases, rng), parts, mentioned)

    with ThreadPoolExecutor(threads) as pool:
        blocks = list(pool.map(block, range(-(-n // BLOCK))))
    return Pairs(
        np.concatenate([b.images for b in blocks]),
        [caption for b in blocks for caption in b.captions],
        np.concatenate([b.parts for b in blocks]),
        np.concatenate([b.mentioned for b in blocks]),
    )


def redrawn(nouns: Nouns, pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """Other characters that fit the captions of `pairs` as well: named parts stay, the rest is drawn anew; parts (n, 5).

    Held-out (head, glasses) pairs do not occur, as in training: where head or glasses is open, the open ones are drawn
    from those allowed with what is named, as a fresh character with this caption would have them.
    """
    parts, rows = pairs.parts.copy(), np.arange(len(pairs.parts))
    while len(rows):  # rejection leaves the law of fresh characters given what is named
        drawn = nouns.sample(len(rows), rng, heldout=None)
        parts[rows] = np.where(pairs.mentioned[rows], pairs.parts[rows], drawn)
        rows = rows[nouns.heldout_pairs[parts[rows, 3], parts[rows, 4]]]
    return parts


def heldout_pairs(nouns: Nouns, n: int, seed: int, purpose: str) -> Pairs:
    """`n` pairs whose (head, glasses) no training image shows; every caption names both, and none to three attributes
    more, each number equally often."""
    phrases = attribute_phrases(nouns)
    rng = numpy_generator(seed, purpose)
    parts = nouns.sample(n, rng, heldout=True)
    mentioned = np.zeros((n, len(KINDS)), bool)
    mentioned[:, [KINDS.index("head"), KINDS.index("glasses")]] = True
    rank = rng.random((n, 3)).argsort(axis=1)
    mentioned[:, :3] = rank < rng.integers(0, 4, (n, 1))
    return Pairs(nouns.render(parts), captions(parts, mentioned, phrases, rng), parts, mentioned)
