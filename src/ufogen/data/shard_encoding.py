"""Shards encoded one by one: a shard's files are there with their card, or the shard is not done."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from ufogen import config
from ufogen.data.encoder import Decoded, Encoder
from ufogen.data.shards import Shard, tars
from ufogen.files import ARTIFACTS, sha256
from ufogen.training.checkpoint import deciding, fingerprint


class ArrayWriter:
    """A .npy file of float16 that grows block by block."""

    def __init__(self, path: Path):
        self.file, self.shape = path.open("wb"), (0,)

    def append(self, block: np.ndarray) -> None:
        """Write rows (b, ...); the first block decides the shape of a row."""
        if self.shape == (0,):
            self._header((0, *block.shape[1:]))
        self.shape = (self.shape[0] + len(block), *block.shape[1:])
        self.file.write(np.ascontiguousarray(block, np.float16).data)

    def _header(self, shape: tuple[int, ...]) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)  # it leaves room for the first axis to grow

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.file.seek(0)
            self._header(self.shape)
        self.file.close()


def encode_shard(shard: Shard, rows: np.ndarray, encoder: Encoder, folder: Path) -> None:
    """Write latents-NAME.npy and prompt_embeds-NAME.npy of a shard's `rows`, without broken images, at last its card NAME.json.

    For SDXL also pooled_prompt_embeds-NAME.npy.
    """
    name, whole, broken = shard.path.stem, 0, 0
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as aside:
        files = {kind: f"{kind}-{name}.npy" for kind in encoder.kinds}
        with ExitStack() as stack:
            writers = {kind: stack.enter_context(ArrayWriter(Path(aside, file))) for kind, file in files.items()}
            for block in _decoded(shard, rows, encoder):
                pairs = [pair for pair in block if pair is not None]
                whole, broken = whole + len(pairs), broken + len(block) - len(pairs)
                if pairs:
                    batch = encoder.encode(pairs)
                    for kind, writer in writers.items():
                        writer.append(getattr(batch, kind).cpu().numpy())
        card = {"stamp": shard.stamp, "n": whole, "broken_images": broken}
        Path(aside, f"{name}.json").write_text(json.dumps(card))
        for file in (*files.values(), f"{name}.json"):
            os.replace(Path(aside, file), folder / file)


def shard_card(shard: Shard, folder: Path) -> dict | None:
    """The card of a shard that is done, None where it is not or where its tar has changed since."""
    try:
        card = json.loads((folder / f"{shard.path.stem}.json").read_text())
    except FileNotFoundError:
        return None
    return card if card["stamp"] == shard.stamp else None


def identity(c: config.Config) -> str:
    """A short hash of all that decides what a pair of a shard is encoded to, wherever the shards lie."""
    parts = ("vae", "text_encoder", "text_encoder_2")  # the last is SDXL's alone
    weights = [sha256(ARTIFACTS / "base" / part) for part in parts if (ARTIFACTS / "base" / part).is_dir()]
    return fingerprint(c.seed, deciding(c.data), weights)


def lengths(folder: str) -> dict[str, int]:
    """The shards of a folder by their names, with their bytes: by these they are known where they are moved to."""
    return {path.name: path.stat().st_size for path in tars(folder) if path.is_file()}


def read_run(folder: Path) -> str | None:
    """The identity of the shards' encoding in a folder, None where there is none."""
    card = folder / "card.json"
    return json.loads(card.read_text()).get("run") if card.is_file() else None


def _decoded(shard: Shard, rows: np.ndarray, encoder: Encoder) -> Iterator[list[Decoded | None]]:
    """Blocks of decoded pairs, None for a broken image; threads decode a block while its predecessor is encoded."""
    size = encoder.settings.encode_batch_size
    with ThreadPoolExecutor(encoder.settings.workers) as pool:
        ahead: list[Future] = []
        for start in range(0, len(rows) + size, size):
            current, ahead = ahead, [pool.submit(encoder.decode_or_skip, shard, int(row)) for row in rows[start : start + size]]
            if current:
                yield [future.result() for future in current]
