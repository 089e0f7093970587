"""Tar shards made on the spot."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass
class Pair:
    """An image of `size` (width, height) that only `seed` knows, its caption and its facts; None leaves the file out."""

    seed: int
    size: tuple[int, int] = (16, 16)
    caption: str | None = "a noun with red glasses"
    facts: dict | None = None
    broken: bool = False
    kind: str = "png"

    @property
    def image(self) -> bytes:
        pixels = np.random.default_rng(self.seed).integers(0, 256, (*self.size[::-1], 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, {"jpg": "JPEG"}.get(self.kind, self.kind))
        return file.getvalue()[: 60 if self.broken else None]  # the header is left


def write_shard(path: Path, pairs: list[Pair]) -> Path:
    with tarfile.open(path, "w") as tar:
        for i, pair in enumerate(pairs):
            files = {pair.kind: pair.image}
            if pair.caption is not None:
                files["txt"] = pair.caption.encode()
            if pair.facts is not None:
                files["json"] = json.dumps(pair.facts).encode()
            for ending, data in files.items():
                member = tarfile.TarInfo(f"{path.stem}{i:04d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path
