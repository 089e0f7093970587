"""Fix the prompts of the zero-shot evaluation on COCO, and check before anything is sampled that nothing will be lacking."""

from __future__ import annotations

from pathlib import Path

import torch

from ufogen import config
from ufogen.data.coco import Prompts, check_images, load, reference_files, write_prompts
from ufogen.evaluation import clip_score, coco, inception
from ufogen.pipelines.stage import run, sha256


def main(c: config.Config) -> None:
    """Write artifacts/coco/SPLIT/prompts.json. Raises `UserError` naming the first thing that is missing or does not fit."""
    split, wanted = c.coco.split, coco.compared(c)
    pairs = load(c.coco.folder, split, coco.size(c), c.seed)
    coco.open_sampler(c, wanted, torch.device("cpu"))
    inception.load(inception.weights_file(c.coco.inception_weights))
    for name in c.coco.clip:
        clip_score.load(name)
    check_images(reference_files(c.coco.folder, split), c.threads)
    annotations = sha256(Path(c.coco.folder) / "annotations" / f"captions_{split}.json")
    write_prompts(coco.prompts_file(c), Prompts(split, c.seed, annotations, pairs.ids, pairs.captions))
    print(f"{len(pairs.ids)} prompts of {split}")


if __name__ == "__main__":
    run(main)
