"""LAION-style shards: tar files with NAME.jpg, NAME.txt and, where scores and sizes are known, NAME.json.

NAME ends at the last dot. The caption may stand in the .json too (`data.caption_key`). What macOS adds, ._NAME, is left out.

An index of each tar is made once, so that any pair can be read at any time: training data is then a pure function of the
update's number, and a resumed run replays nothing.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import warnings
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
KINDS = (*IMAGES, "txt", "json")
LARGEST = np.iinfo("i4").max  # side of an image that an index has room for
LARGEST_SCORE = float(np.finfo("f4").max)
UNUSABLE = {  # what data.broken=refuse refuses, and what it says
    "without_caption": "has no caption",
    "broken_facts": "has a width, a height or a score that no image has",
    "broken_header": "cannot be read as an image",
}
BROKEN = -1  # in place of a side: the .json gives a number that no image has
PAIR = np.dtype(
    [
        ("image", "i8"),  # offset and length in the tar, bytes
        ("image_size", "i8"),
        ("text", "i8"),  # of the .txt, or of the .json that has the caption
        ("text_size", "i8"),  # 0: no caption
        ("width", "i4"),  # pixels; 0: unreadable, -1: see BROKEN
        ("height", "i4"),
        ("score", "f4"),  # NaN: none
    ]
)


@dataclass
class Shard:
    """A tar and its index: `pairs` (n,) of `PAIR`; `broken` says why the tar cannot be used, in which case there are none.

    `stamp` is the tar's length and time and the keys of score and caption; an index with another stamp does not count.
    """

    path: Path
    stamp: str
    pairs: np.ndarray
    broken: str = ""
    caption_key: str = ""

    def read(self, row: int) -> tuple[bytes, str]:
        """The image file and the caption of a pair."""
        pair = self.pairs[row]
        with self.path.open("rb") as file:
            file.seek(pair["image"])
            image = file.read(pair["image_size"])
            file.seek(pair["text"])
            return image, read_caption(file.read(pair["text_size"]), self.caption_key)

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
            rows, left = chosen(shard.pairs, settings)
            self.rows.append(rows)
            totals.update({"pairs": len(shard.pairs), "kept": len(rows)} | {reason: len(some) for reason, some in left.items()})
            if settings.broken == "refuse":
                _refuse(shard, left)
        self.counts = dict(totals)
        self.starts = np.cumsum([0, *map(len, self.rows)])
        if not any((shard.pairs["text_size"] > 0).any() for shard in shards):
            raise UserError(
                f"data.path {settings.path} has no image with a caption: {self.counts}; wanted: NAME.jpg with NAME.txt, or "
                "with NAME.json whose key data.caption_key names"
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
    paths = tars(settings.path)
    if not paths:
        raise UserError(f"data.path {settings.path!r} has no shard: a folder with files *.tar is wanted")
    index.mkdir(parents=True, exist_ok=True)
    for path in paths[rank::world_size]:
        _indexed(path, index, settings)
    wait()
    return Shards([_indexed(path, index, settings) for path in paths], settings)


def tars(folder: str) -> list[Path]:
    """The shards of a folder by name; none where it is not there."""
    return sorted(Path(folder).glob("[!.]*.tar")) if folder else []


def _indexed(path: Path, folder: Path, settings: config.Data) -> Shard:
    """The shard with its index, read from `folder` or made and written there."""
    keys = settings.score_key, settings.caption_key
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
    except OSError as error:  # a folder, or not to be read; no index is written, as no change of it would be seen
        return Shard(path, "", np.empty(0, PAIR), str(error))
    file = folder / f"{path.stem}.npz"
    stamp = " ".join(map(str, (stat.st_size, stat.st_mtime_ns, *keys)))
    if file.is_file():
        with np.load(file) as content:
            if str(content["stamp"]) == stamp:
                return Shard(path, stamp, content["pairs"], str(content["broken"]), settings.caption_key)
    try:
        pairs, broken = scan(path, *keys), ""
    except OSError:
        raise
    except Exception as error:  # tarfile raises many kinds for damaged headers
        pairs, broken = np.empty(0, PAIR), str(error) or type(error).__name__
    buffer = io.BytesIO()
    np.savez(buffer, pairs=pairs, broken=broken, stamp=stamp)
    write_whole(file, buffer.getvalue())
    return Shard(path, stamp, pairs, broken, settings.caption_key)


def scan(path: Path, score_key: str, caption_key: str = "") -> np.ndarray:
    """The pairs of a tar (n,) of `PAIR`, in the order of their images. Raises TarError where it is damaged or cut short."""
    with tarfile.open(path, "r:") as tar:
        members, end = tar.getmembers(), tar.offset
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in filter(tarfile.TarInfo.isreg, members):
        stem, _, kind = member.name.rpartition(".")
        if kind.lower() in KINDS and not os.path.basename(stem).startswith("._"):
            groups.setdefault(stem, {})[kind.lower()] = member
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a bad header for the end
            raise tarfile.ReadError("no end-of-archive block")
        pairs = [_pair(file, group, score_key, caption_key) for group in groups.values() if not set(IMAGES).isdisjoint(group)]
    return np.array(pairs, PAIR)


def _pair(file: io.BufferedReader, group: dict[str, tarfile.TarInfo], score_key: str, caption_key: str) -> tuple:
    image = next(group[kind] for kind in IMAGES if kind in group)
    text = group.get("json" if caption_key else "txt")
    place = (text.offset_data, text.size) if text and read_caption(_read(file, text), caption_key) else (0, 0)
    facts = read_facts(_read(file, group["json"])) if "json" in group else {}
    try:
        width, height = (_side(facts.get(name)) for name in ("width", "height"))
        score = read_score(facts.get(score_key))
    except OverflowError:
        width, height, score = BROKEN, BROKEN, np.nan
    if not (width and height):
        width, height = image_size(_read(file, image))
    return image.offset_data, image.size, *place, width, height, score


def read_facts(data: bytes) -> dict:
    """What a .json says, nothing where it cannot be read."""
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _side(value: object) -> int:
    """Width or height, 0 where it is no whole number. Raises OverflowError where no image has it."""
    if type(value) is not int:
        return 0
    if not 1 <= value <= LARGEST:
        raise OverflowError
    return value


def read_score(value: object) -> float:
    """A score, which may be written as text; NaN where there is none. Raises OverflowError where it is too large."""
    try:
        score = float(value)
    except (TypeError, ValueError):
        return np.nan
    if abs(score) > LARGEST_SCORE:
        raise OverflowError
    return score


def image_size(source: bytes | Path) -> tuple[int, int]:
    """Width and height as the header says, 0 where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of very large ones, which are refused when they are decoded
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return image.size
    except Exception:  # Pillow's readers raise many kinds for damaged files
        return 0, 0


def _read(file: io.BufferedReader, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def read_caption(data: bytes, key: str = "") -> str:
    """The text of a .txt, or with a key what stands under it in a .json; empty where there is none."""
    text = read_facts(data).get(key) if key else data.decode("utf-8-sig", "replace")  # some tools begin with a byte order mark
    return clean(text) if isinstance(text, str) else ""


def clean(text: str) -> str:
    """A caption in one line, and of valid Unicode, which a .json does not promise."""
    return " ".join(text.encode("utf-8", "replace").decode().removeprefix("\ufeff").split())


def chosen(pairs: np.ndarray, settings: config.Data) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The rows of pairs (n,) of `PAIR` that pass, and those left out, each for the first reason that applies."""
    shorter = np.minimum(pairs["width"], pairs["height"])
    ratio = np.maximum(pairs["width"], pairs["height"]) / np.maximum(shorter, 1)
    reasons = {
        "without_caption": pairs["text_size"] == 0,
        "broken_facts": shorter == BROKEN,
        "broken_header": shorter <= 0,
        "small": shorter < settings.minimum_side,
        "oblong": (ratio > settings.maximum_aspect_ratio) & (settings.maximum_aspect_ratio > 0),
        "low_score": ~(pairs["score"] >= settings.minimum_score) & (settings.minimum_score > 0),
    }
    left, keep = {}, np.ones(len(pairs), bool)
    for reason, applies in reasons.items():
        left[reason] = np.flatnonzero(keep & applies)
        keep &= ~applies
    return np.flatnonzero(keep), left


def _refuse(shard: Shard, left: dict[str, np.ndarray]) -> None:
    if shard.broken:
        raise UserError(f"shard {shard.path} cannot be read: {shard.broken}; data.broken=skip leaves it out")
    for reason, said in UNUSABLE.items():
        if len(left[reason]):
            raise UserError(f"pair {left[reason][0]} of shard {shard.path} {said}; data.broken=skip leaves it out")
