"""What a base is pretrained on: Nouns, rendered as training goes, or a folder of own pictures.

Each draw depends on the seed, its purpose and its key alone. `held_images` and `held_pairs` are for validation.
"""

from __future__ import annotations

import numpy as np

from ufogen import config
from ufogen.data.folder import Folder
from ufogen.data.nouns import SIZE, Nouns
from ufogen.data.pairs import Pairs, make_pairs, redrawn
from ufogen.errors import UserError
from ufogen.randomness import numpy_generator


class NounsSource:
    """Characters without end, but for the held-out (head, glasses) pairs."""

    side, identity = SIZE, ()

    def __init__(self, c: config.Config):
        self.nouns, self.c = Nouns.load(c.data.node_modules), c

    def images(self, n: int, purpose: str, *key: int) -> np.ndarray:
        """(n, 32, 32, 3) uint8."""
        return self.nouns.render(self.nouns.sample(n, numpy_generator(self.c.seed, purpose, *key)))

    def pairs(self, n: int, purpose: str, key: int = 0) -> Pairs:
        return make_pairs(self.nouns, n, self.c.seed, purpose, key, threads=self.c.threads)

    def others(self, pairs: Pairs, purpose: str, *key: int) -> np.ndarray:
        """Other images that fit the captions as well."""
        return self.nouns.render(redrawn(self.nouns, pairs, numpy_generator(self.c.seed, purpose, *key)))

    held_images, held_pairs = images, pairs


class FolderSource:
    """The pictures of a folder, over and over; those that it keeps from training are for validation."""

    nouns = None

    def __init__(self, c: config.Config):
        self.folder = Folder(c.data, c.seed)
        self.side, self.identity = self.folder.side, (self.folder.identity,)
        if not 0 < c.data.evaluation_size < (n := len(self.folder.captions)):
            raise UserError(f"parameter data.evaluation_size is {c.data.evaluation_size}; allowed: 1 ... {n - 1}")

    def images(self, n: int, purpose: str, *key: int) -> np.ndarray:
        """(n, side, side, 3) uint8."""
        return self.folder.images[self.folder.drawn(n, purpose, *key)]

    def pairs(self, n: int, purpose: str, key: int = 0) -> Pairs:
        return self.folder[self.folder.drawn(n, purpose, key)]

    def others(self, pairs: Pairs, purpose: str, *key: int) -> np.ndarray:
        """The same images: a caption has no other."""
        return pairs.images

    def held_images(self, n: int, purpose: str) -> np.ndarray:
        """At most `n`."""
        return self.folder.images[self.folder.held[:n]]

    def held_pairs(self, n: int, purpose: str) -> Pairs:
        """At most `n`."""
        return self.folder[self.folder.held[:n]]


def open_source(c: config.Config) -> NounsSource | FolderSource:
    """The source of data.source. Raises `UserError` for another one, and for pictures that the networks cannot halve."""
    if c.data.source not in ("nouns", "folder"):
        raise UserError(f"parameter data.source is {c.data.source}; allowed for pretraining: nouns, folder")
    source = FolderSource(c) if c.data.source == "folder" else NounsSource(c)
    step = latent_factor(c) * 2 ** (len(c.pretrain.denoiser.channels) - 1)
    if source.side % step:
        raise UserError(
            f"parameter data.resolution is {source.side}; allowed for the channels of pretrain: multiples of {step}"
        )
    return source


def latent_factor(c: config.Config) -> int:
    """Pixels of a latent's side."""
    return 2 ** (len(c.pretrain.autoencoder.channels) - 1)
