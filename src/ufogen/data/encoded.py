"""Latents and token states, encoded once, on disk and memory-mapped: no image and no caption is encoded twice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ufogen.errors import UserError
from ufogen.randomness import numpy_generator


@dataclass
class EncodedBatch:
    """`latents` (b, c, h, w) and token states `states` (b, tokens, width), float16 as stored."""

    latents: Tensor
    states: Tensor


class Encoded:
    """The folder that the encode stage wrote: latents.npy, states.npy and a card.

    Calling it with an update's number gives that update's batch: every pair once an epoch, in an order that depends on
    the seed alone. On several processes each takes its share of the global batch.
    """

    def __init__(self, folder: str | Path, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        folder = Path(folder)
        try:
            self.card = json.loads((folder / "card.json").read_text())
            self.latents = np.load(folder / "latents.npy", mmap_mode="r")
            self.states = np.load(folder / "states.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"encoded data in {folder} cannot be read ({error}): run `dvc repro encode`") from error
        if not len(self.latents) == len(self.states) == self.card["n"]:
            raise UserError(f"encoded data in {folder} is incomplete: run `dvc repro encode`")
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        if batch_size * world_size > len(self):
            raise UserError(
                f"parameter trainer.batch_size is {batch_size} on {world_size} processes; "
                f"allowed: at most data.train_size {len(self)} together"
            )
        self._epoch, self._order = -1, None

    def __len__(self) -> int:
        return len(self.latents)

    def __call__(self, step: int) -> EncodedBatch:
        index = np.sort(self._index(step))  # ascending, which the disk likes; the order inside a batch is of no account
        return EncodedBatch(torch.from_numpy(self.latents[index]), torch.from_numpy(self.states[index]))

    def _index(self, step: int) -> np.ndarray:
        per_epoch = len(self) // (self.batch_size * self.world_size)
        epoch, position = divmod(step, per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = numpy_generator(self.seed, "epoch", epoch).permutation(len(self))
        start = (position * self.world_size + self.rank) * self.batch_size
        return self._order[start : start + self.batch_size]
