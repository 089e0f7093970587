"""Make the image sets and their captions: render Nouns, read a folder, index shards, or draw COCO's prompts."""

from __future__ import annotations

import json

from ufogen import config
from ufogen.data import coco
from ufogen.data.folder import Folder, sets
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import heldout_pairs, make_pairs, write_pairs
from ufogen.data.shards import open_shards
from ufogen.errors import UserError
from ufogen.pipelines.stage import ARTIFACTS, publish, run


def main(c: config.Config) -> None:
    """Write artifacts/data."""
    sources = {"nouns": prepare_nouns, "folder": prepare_folder, "webdataset": prepare_shards, "coco": prepare_coco}
    sources[c.data.source](c)


def prepare_folder(c: config.Config) -> None:
    """Read the folder and write its sets, and what is in it and what is left out, card.json."""
    folder, k = Folder(c.data, c.seed), c.evaluation.neighborhood
    n = len(folder.captions)
    if not k < c.data.evaluation_size < n - k:  # precision and recall look at k neighbours
        allowed = f"{k + 1} ... {n - k - 1}" if n > 2 * k + 1 else f"none, as {2 * k + 2} pictures are needed"
        name = f"parameter data.evaluation_size is {c.data.evaluation_size}"
        raise UserError(f"{name}; allowed with the {n} pictures of {c.data.path} that can be used: {allowed}: {folder.counts}")
    made = sets(folder)
    with publish(ARTIFACTS / "data") as out:
        for name, pairs in made.items():
            write_pairs(out / name, pairs)
        (out / "card.json").write_text(json.dumps({"data": config.to_dict(c.data), "counts": folder.counts}, indent=1))
    print(folder.counts | {name: len(pairs) for name, pairs in made.items()})


def prepare_shards(c: config.Config) -> None:
    """Index the shards, which stay where they are, and write what is in them and what is left out, card.json."""
    counts = open_shards(c.data, ARTIFACTS / "shards").counts
    with publish(ARTIFACTS / "data") as out:
        (out / "card.json").write_text(json.dumps({"data": config.to_dict(c.data), "counts": counts}, indent=1))
    print(counts)


def prepare_coco(c: config.Config) -> None:
    """Write the evaluation prompts: evaluation/captions.json, and with the images' numbers and files evaluation/card.json."""
    pairs = coco.load(c.data.path, c.data.split, c.data.evaluation_size, c.seed)
    with publish(ARTIFACTS / "data") as out:
        (out / "evaluation").mkdir()
        (out / "evaluation" / "captions.json").write_text(json.dumps(pairs.captions, indent=0))
        card = {"split": c.data.split, "seed": c.seed, "ids": pairs.ids, "files": [path.name for path in pairs.paths]}
        (out / "evaluation" / "card.json").write_text(json.dumps(card, indent=0))
    print({"evaluation": len(pairs.captions)})


def prepare_nouns(c: config.Config) -> None:
    """Training pairs; prompts with reference images and a second real set, for validation and, apart
    from it, for evaluation; held-out pairs. Settings are chosen on the validation sets alone."""
    nouns, n = Nouns.load(c.data.node_modules), c.data.evaluation_size
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


if __name__ == "__main__":
    run(main)
