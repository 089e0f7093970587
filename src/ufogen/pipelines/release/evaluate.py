"""Measure the released generator beside the base, with several draws of noise."""

from __future__ import annotations

from ufogen import config
from ufogen.pipelines.main.evaluate import measured, write
from ufogen.pipelines.release.paths import SAMPLES, TRAIN, seeds
from ufogen.pipelines.stage import run


def main(c: config.Config) -> None:
    """Write paper/results/release.csv, the columns of main.csv with rows for each seed of noise, and its card."""
    rows = [row for seeded in seeds(c) for row in measured(seeded, TRAIN, SAMPLES / str(seeded.seed))]
    write(c, rows, TRAIN, "release", {})


if __name__ == "__main__":
    run(main)
