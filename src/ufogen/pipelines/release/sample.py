"""Sample every method of the comparison beside the released generator, with several draws of noise."""

from __future__ import annotations

from ufogen import config
from ufogen.pipelines.main.sample import sample
from ufogen.pipelines.release.paths import SAMPLES, TRAIN, seeds
from ufogen.pipelines.stage import run


def main(c: config.Config) -> None:
    """Write artifacts/release/samples/SEED."""
    for seeded in seeds(c):
        sample(seeded, TRAIN, SAMPLES / str(seeded.seed))


if __name__ == "__main__":
    run(main)
