"""Latents and token states, encoded once, on disk and memory-mapped: no image and no caption is encoded twice."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ufogen.diffusion.batch import EncodedBatch
from ufogen.errors import UserError
from ufogen.randomness import numpy_generator

OPEN = 128  # shards that are mapped at a time


class Order:
    """Which of `n` pairs an update takes: every pair once an epoch, in an order that depends on the seed alone.

    On several processes each takes its share of the global batch.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.n, self.batch_size, self.seed, self.rank, self.world_size = n, batch_size, seed, rank, world_size
        if batch_size * world_size > n:
            raise UserError(
                f"parameter trainer.batch_size is {batch_size} on {world_size} processes; "
                f"allowed: at most the data's size {n} together"
            )
        self._epoch, self._order = -1, None

    def __call__(self, step: int) -> np.ndarray:
        """Ascending, which the disk likes: nothing may go by an item's place in its batch."""
        per_epoch = self.n // (self.batch_size * self.world_size)
        epoch, position = divmod(step, per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = numpy_generator(self.seed, "epoch", epoch).permutation(self.n)
        start = (position * self.world_size + self.rank) * self.batch_size
        return np.sort(self._order[start : start + self.batch_size])


class Encoded:
    """The folder that the encode stage wrote: latents.npy, prompt_embeds.npy and a card, or such a pair of files a shard.

    For an SDXL base the card says `pooled_prompt_embeds`, and pooled_prompt_embeds.npy lies beside them.
    Calling it with an update's number gives that update's batch, in the order of `Order`.
    """

    def __init__(self, folder: str | Path, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.folder = Path(folder)
        self._open = lru_cache(OPEN)(self._read)
        try:
            self.card = json.loads((self.folder / "card.json").read_text())
            self._kinds = (
                ("latents", "prompt_embeds", "pooled_prompt_embeds")
                if self.card.get("pooled_prompt_embeds")
                else ("latents", "prompt_embeds")
            )
            self._shards = self.card.get("shards", {"": self.card["n"]})  # the ending of the files' names: pairs in them
            whole = all(len(array) == n for shard, n in self._shards.items() for array in self._open(shard))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise UserError(f"encoded data in {folder} cannot be read ({error}): run `dvc repro encode`") from error
        self._names, self._starts = list(self._shards), np.cumsum([0, *self._shards.values()])
        if not whole or len(self) != self.card["n"]:
            raise UserError(f"encoded data in {folder} is incomplete: run `dvc repro encode`")
        self.order = Order(len(self), batch_size, seed, rank, world_size)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __call__(self, step: int) -> EncodedBatch:
        index = self.order(step)
        shard = np.searchsorted(self._starts, index, side="right") - 1
        parts = [[array[index[shard == i] - self._starts[i]] for array in self._open(self._names[i])] for i in np.unique(shard)]
        whole = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        return EncodedBatch(**dict(zip(self._kinds, whole, strict=True)))

    def _read(self, shard: str) -> tuple[np.ndarray, ...]:
        return tuple(np.load(self.folder / f"{kind}{shard}.npy", mmap_mode="r") for kind in self._kinds)
