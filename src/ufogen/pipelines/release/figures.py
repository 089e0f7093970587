"""Draw what the release's training bought, beside the main chain's generator and the base."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ufogen import config
from ufogen.data.pairs import read_output
from ufogen.figures.comparison import quality_against_openness
from ufogen.pipelines.main.figures import of_samples, of_training
from ufogen.pipelines.release.paths import SAMPLES, TRAIN
from ufogen.pipelines.stage import RESULTS, publish, run

FIGURES = Path("paper/release")


def main(c: config.Config) -> None:
    """Write paper/release, its sheets of samples with the first draw of noise."""
    main_rows, release = (read_output(RESULTS / f"{name}.csv", "evaluate", pd.read_csv) for name in ("main", "release"))
    with publish(FIGURES) as out:
        of_samples(c, SAMPLES / str(c.seed), out)
        of_training(c, TRAIN, out)
        if (release["named"] != "all").any():
            quality_against_openness(beside(main_rows, mean_over_noise(release)), out / "quality_against_openness.png")


def mean_over_noise(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for all that differ in their draw of noise alone, the real images' as they are."""
    keys = ["method", "sampler", "steps", "guidance", "n", "named"]
    return rows.groupby(keys, sort=False, dropna=False).mean(numeric_only=True).reset_index()


def beside(main_rows: pd.DataFrame, release: pd.DataFrame) -> pd.DataFrame:
    """The release's rows with its generator as `further`, and the main chain's generator."""
    further = release.replace({"method": {"ufogen": "further"}})
    return pd.concat([further, main_rows[main_rows["method"] == "ufogen"]], ignore_index=True)


if __name__ == "__main__":
    run(main)
