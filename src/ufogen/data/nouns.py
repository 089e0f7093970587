"""Nouns: 32 px pixel-art characters composed of five parts (artwork CC0, npm `@nouns/assets`).

Every image is background, body, accessory, head and glasses painted in this order, so there are
2 * 30 * 143 * 254 * 23 = 50,124,360 of them and each attribute of an image is known exactly.
The package's file gives each part as run lengths of palette indices inside a bounding box.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ufogen.errors import UserError

KINDS = ("background", "body", "accessory", "head", "glasses")  # in painting order
SIZE = 32
PACKAGE = "@nouns/assets"
VERSION = "0.10.0"
COUNTS = {"background": 2, "body": 30, "accessory": 143, "head": 254, "glasses": 23}
HELDOUT_SEED = 231109257  # fixed for ever: the pairs that no training image shows
_FIELDS = {"body": "bodies", "accessory": "accessories", "head": "heads", "glasses": "glasses"}


@dataclass(frozen=True)
class Nouns:
    """The parts of the package, decoded.

    Attributes
    ----------
    palette: (256, 3) uint8. Index 0 is transparent; the two backgrounds stand at the end.
    layers: for each kind an array (parts, 32, 32) uint8 of palette indices, 0 where transparent.
    names: for each kind the file names of its parts, as in the package.
    """

    palette: np.ndarray
    layers: dict[str, np.ndarray]
    names: dict[str, tuple[str, ...]]

    @classmethod
    def load(cls, node_modules: str | Path = "node_modules") -> Nouns:
        """Read the installed npm package, as Node finds it: in this folder or, by a relative path, in that of a folder above.

        `dvc exp run --temp` works in a folder below the repository's. Raises `UserError` where the package is missing,
        damaged or of another version.
        """
        places = [place / node_modules / PACKAGE for place in (Path(), *Path.cwd().parents)]
        folder = next((place for place in places if place.is_dir()), places[0])
        path = folder / "dist" / "image-data.json"
        remedy = f"`make setup` gets it in the repository, `npm install {PACKAGE}@{VERSION}` elsewhere"
        if not path.is_file():
            raise UserError(f"data package {PACKAGE} not found under {node_modules}: {remedy}")
        try:
            version = json.loads((folder / "package.json").read_text())["version"]
            content = json.loads(path.read_text())
            nouns = cls._decode(content)
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"data package {PACKAGE} is damaged ({type(error).__name__}: {error}): {remedy}") from error
        found = {kind: len(names) for kind, names in nouns.names.items()}
        if version != VERSION or found != COUNTS:
            raise UserError(
                f"data package {PACKAGE} is version {version} with parts {found}, expected {VERSION} with {COUNTS}: {remedy}"
            )
        return nouns

    @classmethod
    def _decode(cls, content: dict) -> Nouns:
        colours = ["000000", *content["palette"][1:]]
        first_background = len(colours)
        colours += content["bgcolors"]
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)] = [list(bytes.fromhex(colour)) for colour in colours]

        layers = {"background": np.empty((len(content["bgcolors"]), SIZE, SIZE), np.uint8)}
        for i in range(len(content["bgcolors"])):
            layers["background"][i] = first_background + i
        names = {"background": tuple(f"background-{colour}" for colour in content["bgcolors"])}
        for kind, field in _FIELDS.items():
            parts = content["images"][field]
            layers[kind] = np.stack([_decode_part(part["data"]) for part in parts])
            names[kind] = tuple(part["filename"] for part in parts)
        return cls(palette, layers, names)

    def render(self, parts: np.ndarray) -> np.ndarray:
        """Paint `parts` (n, 5), integers in the order of `KINDS`, into images (n, 32, 32, 3) uint8."""
        parts = np.asarray(parts)
        canvas = self.layers["background"][parts[:, 0]]
        for column, kind in enumerate(KINDS[1:], start=1):
            layer = self.layers[kind][parts[:, column]]
            np.copyto(canvas, layer, where=layer != 0)
        return self.palette[canvas]

    def sample(self, n: int, rng: np.random.Generator, heldout: bool | None = False) -> np.ndarray:
        """Draw `n` characters as parts (n, 5) int16, uniformly.

        heldout: False draws (head, glasses) pairs outside the held-out set (training), True only inside it, None any.
        """
        parts = np.stack([rng.integers(0, COUNTS[kind], n) for kind in KINDS], axis=1).astype(np.int16)
        if heldout is None:
            return parts
        allowed = np.flatnonzero(self.heldout_pairs.ravel() == heldout)
        pair = rng.choice(allowed, n)
        parts[:, 3], parts[:, 4] = np.divmod(pair, COUNTS["glasses"])
        return parts

    @property
    def heldout_pairs(self) -> np.ndarray:
        """See `heldout_pairs`."""
        return heldout_pairs()


@cache
def heldout_pairs() -> np.ndarray:
    """(heads, glasses) bool: the 5 % of pairs, at most a few a head, that no training image shows."""
    rng = np.random.Generator(np.random.PCG64(HELDOUT_SEED))
    return rng.random((COUNTS["head"], COUNTS["glasses"])) < 0.05


def _decode_part(data: str) -> np.ndarray:
    """One part from its hexadecimal string: palette id, top, right, bottom, left, then (length, colour) pairs."""
    raw = np.frombuffer(bytes.fromhex(data.removeprefix("0x")), np.uint8)
    _, top, right, bottom, left = (int(value) for value in raw[:5])
    indices = np.repeat(raw[6::2], raw[5::2])
    layer = np.zeros((SIZE, SIZE), np.uint8)
    layer[top : bottom + 1, left:right] = indices.reshape(bottom + 1 - top, right - left)
    return layer
