"""Shards read, decoded and encoded anew in each batch, where their encoding would not fit on a disk."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ufogen.data.encoded import Order
from ufogen.data.encoder import Decoded, Encoder
from ufogen.data.shards import Shards
from ufogen.diffusion.batch import EncodedBatch
from ufogen.errors import UserError
from ufogen.files import write_whole


class Streamed:
    """Batches as `Encoded` gives them, in the same order, without a cache.

    The place of a broken image is taken by the next whole one, so a batch still depends on its number alone. The names of
    those met so far are in `report`, a JSON list.
    """

    def __init__(
        self, shards: Shards, encoder: Encoder, report: Path, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ):
        self.shards, self.encoder, self.report = shards, encoder, report
        self.card = {"n": len(shards), "resolution": encoder.resolution} | shards.counts
        self.order = Order(len(shards), batch_size, seed, rank, world_size)
        self.broken: set[str] = set(json.loads(report.read_text())) if report.is_file() else set()
        self._pool = ThreadPoolExecutor(encoder.settings.workers)  # Pillow decodes without the interpreter's lock

    def __len__(self) -> int:
        return len(self.shards)

    def __call__(self, step: int) -> EncodedBatch:
        pairs, skipped = zip(*self._pool.map(self._next_whole, self.order(step)), strict=True)
        found = {name for names in skipped for name in names}
        if not found <= self.broken:
            self.broken |= found
            write_whole(self.report, json.dumps(sorted(self.broken)).encode())
        return self.encoder.encode(list(pairs))

    def _next_whole(self, number: int) -> tuple[Decoded, list[str]]:
        """The first pair from `number` on whose image can be read, and the names of those before it."""
        skipped = []
        for i in range(len(self)):
            shard, row = self.shards.find((number + i) % len(self))
            if (pair := self.encoder.decode_or_skip(shard, row)) is not None:
                return pair, skipped
            skipped.append(f"{shard.path.name}:{row}")
        raise UserError(f"none of the {len(self)} images of data.path {self.encoder.settings.path} can be read")
