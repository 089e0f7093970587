"""Own pictures: a folder of images whose captions stand in metadata.jsonl, as Hugging Face's imagefolder has them, or in a
NAME.txt beside each NAME.png.

The folder is read as a whole into memory, each picture once. What cannot be used is left out and counted by its reason, or
refused. A part of the pictures, drawn by the seed, is kept from training.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ufogen import config
from ufogen.data import shards
from ufogen.data.crops import cut, read_rgb
from ufogen.data.pairs import Pairs
from ufogen.errors import UserError
from ufogen.randomness import numpy_generator

METADATA, TEXT = "metadata.jsonl", "text"  # the file, and the key of a caption in its lines
ENDINGS = {f".{ending}" for ending in (*shards.IMAGES, "bmp", "gif", "tif", "tiff")}
WANTED = f"wanted: images with {METADATA}, whose lines have file_name and {TEXT}, or with NAME.txt beside NAME.png"


class Folder:
    """The pictures of data.path that can be used, in the order of their names.

    Attributes
    ----------
    images: (n, side, side, 3) uint8, side being data.resolution.
    captions: n strings.
    counts: how many images there are, how many are left out for each reason, and how many are kept.
    held, rest: rows that are kept from training, data.evaluation_size of them, and the others. A picture that comes or goes
        moves at most one other from one to the other.

    Raises
    ------
    UserError: there is no such folder, no picture is left, or with data.broken=refuse one cannot be used.
    """

    def __init__(self, settings: config.Data, seed: int):
        if not settings.resolution:
            raise UserError("parameter data.resolution is 0; allowed with data.source folder: a whole number, 1 or greater")
        if not settings.path or not Path(settings.path).is_dir():
            raise UserError(f"data.path {settings.path!r} is no folder; {WANTED}")
        self.settings, self.seed, self.side = settings, seed, settings.resolution
        self.counts: dict[str, int] = Counter()
        found = self._chosen(self._found())
        with ThreadPoolExecutor(settings.workers) as pool:
            pictures = list(pool.map(self._read, found))
        rows, seen = [], set()
        for i, (path, picture) in enumerate(zip(found, pictures, strict=True)):
            if isinstance(picture, UserError):
                self._leave_out("broken_images", path, str(picture))
                continue
            digest = hashlib.sha256(picture).digest()
            if digest in seen:  # a picture kept from training could otherwise be there under another name
                self.counts["repeated"] += 1
            else:
                seen.add(digest)
                rows.append(i)
        paths = list(found)
        self.names = [paths[i].relative_to(settings.path).as_posix() for i in rows]
        self.captions = [found[paths[i]][0] for i in rows]
        self.images = np.stack([pictures[i] for i in rows]) if rows else np.empty((0, self.side, self.side, 3), np.uint8)
        self.counts["kept"] = n = len(rows)
        self.counts = dict(self.counts)
        if not n:
            raise UserError(f"data.path {settings.path} has no picture that can be used: {self.counts}; {WANTED}")
        order = np.argsort([numpy_generator(seed, "held out", _key(name)).random() for name in self.names], kind="stable")
        self.held, self.rest = np.sort(order[: settings.evaluation_size]), np.sort(order[settings.evaluation_size :])

    def __getitem__(self, rows: np.ndarray) -> Pairs:
        return Pairs(self.images[rows], [self.captions[i] for i in rows])

    def drawn(self, n: int, purpose: str, *key: int) -> np.ndarray:
        """`n` rows of `rest` in random order, each as often as any other or once more."""
        rng = numpy_generator(self.seed, purpose, *key)
        return np.concatenate([rng.permutation(self.rest) for _ in range(-(-n // len(self.rest)))])[:n]

    @property
    def identity(self) -> str:
        """A hash of all pictures, captions and their division."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images))
        digest.update(json.dumps([self.captions, self.held.tolist()]).encode())
        return digest.hexdigest()

    def _found(self) -> dict[Path, tuple[str, object]]:
        """Every image with its caption, empty where it has none, and its score."""
        folder = Path(self.settings.path)
        files = [path for path in sorted(folder.rglob("*")) if not _hidden(path.relative_to(folder))]
        said: dict[Path, dict] = {}
        for path in files:
            if path.name == METADATA:
                said |= self._lines(path)
        found = {}
        for path in sorted({path for path in files if path.suffix.lower() in ENDINGS} | set(said)):
            self.counts["images"] += 1
            if not os.path.isfile(path):  # also where the name is none that a disk takes
                self._leave_out("missing_images", path, f"is named in {METADATA} and is not there")
                continue
            facts = said.get(path, {})
            caption = facts.get(self.settings.caption_key or TEXT)
            found[path] = (
                shards.clean(caption) if isinstance(caption, str) else _beside(path),
                facts.get(self.settings.score_key),
            )
        return found

    def _lines(self, path: Path) -> dict[Path, dict]:
        """The lines of a metadata.jsonl by the images that they name."""
        found = {}
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            facts = shards.read_facts(line)
            name = facts.get("file_name")
            place = Path(os.path.normpath(path.parent / name)) if isinstance(name, str) and name else None
            if place is not None and place.is_relative_to(os.path.normpath(self.settings.path)):
                found[place] = facts
            elif line.strip():
                self._leave_out("broken_lines", path, f"has no image's file_name in line {number}")
        return found

    def _chosen(self, found: dict[Path, tuple[str, object]]) -> dict[Path, tuple[str, object]]:
        """Those that pass the filters of the settings, which are the same for shards."""
        pairs = np.array([self._facts(path, *of) for path, of in found.items()], shards.PAIR)
        rows, left = shards.chosen(pairs, self.settings)
        paths = list(found)
        for reason, some in left.items():
            for path in (paths[i] for i in some):
                if reason in shards.UNUSABLE:
                    self._leave_out(reason, path, shards.UNUSABLE[reason])
                else:
                    self.counts[reason] += 1
        return {paths[i]: found[paths[i]] for i in rows}

    def _facts(self, path: Path, caption: str, score: object) -> tuple:
        try:
            return 0, 0, 0, len(caption), *shards.image_size(path), shards.read_score(score)
        except OverflowError:
            return 0, 0, 0, len(caption), shards.BROKEN, shards.BROKEN, np.nan

    def _read(self, path: Path) -> np.ndarray | UserError:
        try:
            name = path.relative_to(self.settings.path).as_posix()
            return cut(read_rgb(path), self.settings, self.side, self.seed, _key(name))
        except UserError as error:
            return error

    def _leave_out(self, reason: str, path: Path, said: str) -> None:
        if self.settings.broken == "refuse":
            raise UserError(f"{said if str(path) in said else f'{path} {said}'}; data.broken=skip leaves it out")
        self.counts[reason] += 1


def sets(folder: Folder) -> dict[str, Pairs]:
    """What the main chain takes: pairs to train on, and those that samples are compared with.

    `evaluation` is kept from training. The others are of the pictures trained on: prompts and real images for validation,
    and `floor`, which says how far apart two sets of real pictures are.
    """
    n = folder.settings.evaluation_size
    shown = folder.drawn(len(folder.rest), "validation")
    return {
        "train": folder[folder.rest],
        "validation": folder[shown[:n]],
        "validation_floor": folder[shown[::-1][: 2 * n]],
        "evaluation": folder[folder.held],
        "floor": folder[folder.drawn(len(folder.rest), "evaluation floor")[:n]],
    }


def _beside(image: Path) -> str:
    """The caption in NAME.txt, empty where there is none."""
    try:
        return shards.read_caption(image.with_suffix(".txt").read_bytes())
    except OSError:
        return ""


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _key(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))
