"""Render the image sets and write their captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ufogen import config
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs, heldout_pairs, make_pairs
from ufogen.stages.common import ARTIFACTS, publish, run


def main(c: config.Config) -> None:
    """Write artifacts/data: training pairs; prompts with reference images and a second real set, for validation and, apart
    from it, for evaluation; held-out pairs. Settings are chosen on the validation sets alone."""
    nouns = Nouns.load(c.data.node_modules)
    n = c.data.evaluation_size
    sets = {
        "train": make_pairs(nouns, c.data.train_size, c.seed, "train"),
        "validation": make_pairs(nouns, n, c.seed, "validation"),
        "validation_floor": make_pairs(nouns, n, c.seed, "validation floor"),
        "evaluation": make_pairs(nouns, n, c.seed, "evaluation prompts"),
        "heldout": heldout_pairs(nouns, max(n // 4, 1), c.seed, "evaluation held out"),
        "floor": make_pairs(nouns, n, c.seed, "evaluation floor"),
    }
    with publish(ARTIFACTS / "data") as out:
        for name, pairs in sets.items():
            write_pairs(out / name, pairs)
    print({name: len(pairs.captions) for name, pairs in sets.items()})


def write_pairs(folder: Path, pairs: Pairs) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", pairs.images)
    np.save(folder / "parts.npy", pairs.parts)
    np.save(folder / "mentioned.npy", pairs.mentioned)
    (folder / "captions.json").write_text(json.dumps(pairs.captions, indent=0))


def read_pairs(folder: Path) -> Pairs:
    return Pairs(
        np.load(folder / "images.npy", mmap_mode="r"),
        json.loads((folder / "captions.json").read_text()),
        np.load(folder / "parts.npy"),
        np.load(folder / "mentioned.npy"),
    )


if __name__ == "__main__":
    run(main)
