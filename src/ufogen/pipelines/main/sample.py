"""Sample every method of the comparison from the same prompts and the same noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ufogen import config
from ufogen.base.loading import load_base, load_generator
from ufogen.data.pairs import read_pairs
from ufogen.evaluation.sampler import Sampler, methods
from ufogen.pipelines.stage import ARTIFACTS, publish, run
from ufogen.precision import DTYPES
from ufogen.training.loop import make_accelerator


def main(c: config.Config) -> None:
    sample(c, ARTIFACTS / "train", ARTIFACTS / "samples")


def sample(c: config.Config, train: Path, samples: Path, base: bool = True) -> None:
    """Write `samples`: for each method the images for the evaluation prompts and for the held-out pairs.

    train: where the trained generator is.
    base: whether the base's solvers are sampled beside it.
    """
    device, s = make_accelerator(c.device, "no").device, c.sampler
    trained = load_generator(train, "the trained generator")
    sampler = Sampler.load(load_base(ARTIFACTS / "base"), trained, device, DTYPES[s.precision])
    names = ("ufogen", *s.base_solvers) if base else ("ufogen",)
    compared = methods(names, s.ufogen_steps, s.base_steps, s.guidance, "sampler.base_solvers")
    with publish(samples) as out:
        for part in ("evaluation", "heldout"):
            if not (ARTIFACTS / "data" / part).is_dir():
                continue  # pairs of parts that no training image shows are known of Nouns alone
            text = sampler.encode(read_pairs(ARTIFACTS / "data" / part).captions)
            (out / part).mkdir()
            for method in tqdm(compared, desc=part, mininterval=5):
                np.save(out / part / f"{method.name}.npy", sampler.sample(method, text, s.batch_size, c.seed))
        (out / "card.json").write_text(json.dumps([vars(method) for method in compared], indent=1))


if __name__ == "__main__":
    run(main)
