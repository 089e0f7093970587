"""COCO captions 2014 and 2017, for evaluation: a folder with annotations/captions_SPLIT.json and the images in SPLIT."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from ufogen.config import CocoSplit, ResizeFilter
from ufogen.data.crops import read_rgb, square
from ufogen.errors import UserError
from ufogen.files import write_whole
from ufogen.randomness import numpy_generator

SPLITS = get_args(CocoSplit)
IMAGES = (".jpg", ".jpeg", ".png")


@dataclass
class CocoPairs:
    """Images' numbers `ids`, `captions`, one of each image's five, and the images' files `paths`."""

    ids: list[int]
    captions: list[str]
    paths: list[Path]


@dataclass
class Prompts:
    """A fixed list of images' numbers and captions, in the order in which they are sampled."""

    split: str
    seed: int
    annotations_sha256: str
    ids: list[int]
    captions: list[str]


def write_prompts(path: Path, prompts: Prompts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asdict(prompts), indent=0, ensure_ascii=False).encode())


def read_prompts(path: Path, split: str, n: int, seed: int) -> Prompts:
    """The list that the stage prompts wrote. Raises `UserError` where it is absent, damaged or of other parameters."""
    try:
        prompts = Prompts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; run the stage prompts of pipelines/coco/dvc.yaml first") from error
    if (prompts.split, prompts.seed, len(prompts.captions)) != (split, seed, n):
        raise UserError(
            f"{path} holds {len(prompts.captions)} prompts of {prompts.split}, seed {prompts.seed}; wanted are {n} of "
            f"{split}, seed {seed}: run the stage prompts of pipelines/coco/dvc.yaml again"
        )
    return prompts


def load(folder: str | Path, split: str, n: int, seed: int) -> CocoPairs:
    """`n` images, each with one of its captions, drawn by `seed`; a smaller `n` gives the beginning of the same list.

    Raises `UserError` where the split is unknown, a file is missing or damaged, or fewer than `n` images have a caption.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise UserError(f"COCO split is {split!r}; allowed: {', '.join(SPLITS)}")
    names, captions = _annotations(folder / "annotations" / f"captions_{split}.json")
    if n > len(captions):
        raise UserError(f"{n} COCO prompts wanted; allowed: at most the {len(captions)} images of {split} that have a caption")
    rng = numpy_generator(seed, f"coco {split}")
    choice = rng.random(len(captions))  # drawn for all images, so that it does not depend on n
    found = list(captions)
    order = rng.permutation(len(found))[:n]
    ids = [found[i] for i in order]
    pairs = CocoPairs(
        ids,
        [captions[found[i]][int(choice[i] * len(captions[found[i]]))] for i in order],
        [folder / split / names[key] for key in ids],
    )
    missing = [path for path in pairs.paths if not path.is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {n} COCO images are missing, the first is {missing[0]}: unpack {split}.zip there")
    return pairs


def reference_files(folder: str | Path, split: str) -> list[Path]:
    """All images of a split, also those that have no caption: 5,000 of val2017, 40,504 of val2014. Hidden files are none.

    Raises `UserError` where there is no image.
    """
    place = Path(folder) / split
    found = sorted(path for path in place.glob("[!.]*") if path.suffix.lower() in IMAGES)
    if not found:
        raise UserError(f"{place} has no images: unpack {split}.zip there")
    return found


def check_images(paths: list[Path], threads: int = 1) -> None:
    """Read every image once, pixels included. Raises `UserError` naming a file that cannot be read."""

    def check(path: Path) -> None:
        read_rgb(path)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(check, paths))


def images(paths: list[Path], resolution: int, filter: ResizeFilter = "lanczos", threads: int = 1) -> np.ndarray:
    """The middle squares of image files, resized: (n, resolution, resolution, 3) uint8; for many images call it in parts.

    Raises `UserError` naming a file that cannot be read.
    """
    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes and resizes without the interpreter's lock
        squares = pool.map(lambda path: square(read_rgb(path), resolution, filter), paths)
        return np.stack(list(squares))


def _annotations(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """File names and captions by image number, in an order that does not depend on the file's."""
    try:
        content = json.loads(path.read_bytes())
        names = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
        captions: dict[int, list[str]] = {}
        for entry in sorted(content["annotations"], key=lambda entry: (entry["image_id"], entry["id"])):
            text = " ".join(entry["caption"].split())  # some end in a line break
            if text and entry["image_id"] in names:
                captions.setdefault(int(entry["image_id"]), []).append(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"COCO captions {path} cannot be read: {error}; unpack annotations_trainval there") from error
    return names, captions
