"""LAION-style shards: tar files with NAME.jpg, NAME.txt and, where scores and sizes are known, NAME.json.

An index of each tar is made once, so that any pair can be read at any time: training data is then a pure function of the
update's number, and a resumed run replays nothing.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ufogen import config
from ufogen.errors import UserError
from ufogen.files import write_whole

IMAGES = ("jpg", "jpeg", "png", "webp")
PAIR = np.dtype(
    [
        ("image", "i8"),  # offset and length in the tar, bytes
        ("image_size", "i8"),
        ("text", "i8"),
        ("text_size", "i8"),  # 0: no caption
        ("width", "i4"),  # pixels; 0: unreadable
        ("height", "i4"),
        ("score", "f4"),  # NaN: none
    ]
)


@dataclass
class Shard:
    """A tar and its index: `pairs` (n,) of `PAIR`; `broken` says why the tar cannot be used, in which case there are none.

    `stamp` is the tar's length and time and the score's key; an index with another stamp does not count.
    """

    path: Path
    stamp: str
    pairs: np.ndarray
    broken: str = ""

    def read(self, row: int) -> tuple[bytes, str]:
        """The image file and the caption of a pair."""
        pair = self.pairs[row]
        with self.path.open("rb") as file:
            file.seek(pair["image"])
            image = file.read(pair["image_size"])
            file.seek(pair["text"])
            return image, _caption(file.read(pair["text_size"]))

    def key(self, row: int) -> tuple[int, int]:
        """The pair's number for random draws: it depends neither on the other shards nor on what is filtered."""
        return zlib.crc32(self.path.stem.encode()), row


class Shards:
    """The pairs of a folder of shards that pass the filters of `settings`, numbered from 0 in the order of names.

    Attributes
    ----------
    shards: all tars, ordered by name.
    rows: for each shard the rows of its pairs that passed, ascending.
    starts: (shards + 1,) the number of each shard's first pair.
    counts: how many tars there are, how many are broken, how many pairs there are, left out for each reason, and kept.

    Raises
    ------
    UserError: no shard is there, none of the pairs has a caption, or all are left out.
    """

    def __init__(self, shards: list[Shard], settings: config.Data):
        self.shards = shards
        self.rows: list[np.ndarray] = []
        totals: Counter[str] = Counter(shards=len(shards), broken_shards=sum(bool(shard.broken) for shard in shards))
        for shard in shards:
            rows, counts = _filter(shard.pairs, settings)
            self.rows.append(rows)
            totals.update(counts)
        self.counts = dict(totals)
        self.starts = np.cumsum([0, *map(len, self.rows)])
        if not any((shard.pairs["text_size"] > 0).any() for shard in shards):
            raise UserError(
                f"data.path {settings.path} has no image with a caption: {self.counts}; wanted: NAME.jpg with NAME.txt"
            )
        if len(self) == 0:
            raise UserError(f"all pairs of data.path {settings.path} are left out, lower the minimums of data: {self.counts}")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def find(self, number: int) -> tuple[Shard, int]:
        """The shard and the row of a pair."""
        i = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.shards[i], int(self.rows[i][number - self.starts[i]])


def open_shards(
    settings: config.Data, index: Path, rank: int = 0, world_size: int = 1, wait: Callable[[], None] = lambda: None
) -> Shards:
    """Index what is not indexed yet, each process every n-th shard, into the folder `index`, and read the whole index.

    `wait` returns when all processes have called it. An index is made anew when its tar's length or time changes.
    """
    paths = sorted(Path(settings.path).glob("*.tar")) if settings.path else []
    if not paths:
        raise UserError(f"data.path {settings.path!r} has no shard: a folder with files *.tar is wanted")
    index.mkdir(parents=True, exist_ok=True)
    for path in paths[rank::world_size]:
        _indexed(path, index, settings.score_key)
    wait()
    return Shards([_indexed(path, index, settings.score_key) for path in paths], settings)


def _indexed(path: Path, folder: Path, score_key: str) -> Shard:
    """The shard with its index, read from `folder` or made and written there."""
    file, stat = folder / f"{path.stem}.npz", path.stat()
    stamp = f"{stat.st_size} {stat.st_mtime_ns} {score_key}"
    if file.is_file():
        with np.load(file) as content:
            if str(content["stamp"]) == stamp:
                return Shard(path, stamp, content["pairs"], str(content["broken"]))
    try:
        pairs, broken = scan(path, score_key), ""
    except tarfile.TarError as error:
        pairs, broken = np.empty(0, PAIR), str(error)
    buffer = io.BytesIO()
    np.savez(buffer, pairs=pairs, broken=broken, stamp=stamp)
    write_whole(file, buffer.getvalue())
    return Shard(path, stamp, pairs, broken)


def scan(path: Path, score_key: str) -> np.ndarray:
    """The pairs of a tar (n,) of `PAIR`, in the order of their images. Raises TarError where it is damaged or cut short."""
    with tarfile.open(path, "r:") as tar:
        members, end = tar.getmembers(), tar.offset
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in filter(tarfile.TarInfo.isreg, members):
        folder, name = os.path.split(member.name)
        stem, _, kind = name.partition(".")
        groups.setdefault(f"{folder}/{stem}", {})[kind.lower()] = member
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a bad header for the end
            raise tarfile.ReadError("no end-of-archive block")
        pairs = [_pair(file, group, score_key) for group in groups.values() if not set(IMAGES).isdisjoint(group)]
    return np.array(pairs, PAIR)


def _pair(file: io.BufferedReader, group: dict[str, tarfile.TarInfo], score_key: str) -> tuple:
    image = next(group[kind] for kind in IMAGES if kind in group)
    text, facts = group.get("txt"), _facts(file, group.get("json"))
    caption = _caption(_read(file, text)) if text else ""
    width, height = facts.get("width"), facts.get("height")
    if not (isinstance(width, int) and isinstance(height, int)):
        width, height = _image_size(_read(file, image))
    score = facts.get(score_key)
    score = float(score) if isinstance(score, (int, float)) else np.nan
    place = (text.offset_data, text.size) if caption else (0, 0)
    return image.offset_data, image.size, *place, width, height, score


def _facts(file: io.BufferedReader, member: tarfile.TarInfo | None) -> dict:
    try:
        facts = json.loads(_read(file, member)) if member else {}
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _image_size(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # Pillow's readers raise many kinds for damaged files
        return 0, 0


def _read(file: io.BufferedReader, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def _caption(text: bytes) -> str:
    return " ".join(text.decode("utf-8-sig", "replace").split())  # some tools begin with a byte order mark


def _filter(pairs: np.ndarray, settings: config.Data) -> tuple[np.ndarray, Counter]:
    """The rows that pass, and how many were left out, each for the first reason that applies."""
    shorter = np.minimum(pairs["width"], pairs["height"])
    ratio = np.maximum(pairs["width"], pairs["height"]) / np.maximum(shorter, 1)
    reasons = {
        "without_caption": pairs["text_size"] == 0,
        "broken_header": shorter <= 0,
        "small": shorter < settings.minimum_side,
        "oblong": (ratio > settings.maximum_aspect_ratio) & (settings.maximum_aspect_ratio > 0),
        "low_score": ~(pairs["score"] >= settings.minimum_score) & (settings.minimum_score > 0),
    }
    counts, keep = Counter(pairs=len(pairs)), np.ones(len(pairs), bool)
    for reason, applies in reasons.items():
        counts[reason] = int((keep & applies).sum())
        keep &= ~applies
    counts["kept"] = int(keep.sum())
    return np.flatnonzero(keep), counts
