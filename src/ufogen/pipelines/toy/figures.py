"""Draw the figures of the toy in two dimensions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ufogen import config
from ufogen.errors import UserError
from ufogen.figures.toy import metrics_against_sampling_steps, metrics_against_trained_steps, panels_of_samples
from ufogen.pipelines.stage import RESULTS, publish, run
from ufogen.toy.records import samples_of

FIGURES = Path("paper/toy")


def main(c: config.Config) -> None:
    """Write paper/toy. Raises `UserError` where the arms are not there yet."""
    try:
        results, samples = pd.read_csv(RESULTS / "toy.csv"), samples_of(c.toy)
    except OSError as error:
        raise UserError(f"{error.filename} not found: run `dvc repro pipelines/toy/dvc.yaml` first") from error
    with publish(FIGURES) as out:
        panels_of_samples(samples, results, out / "samples.png")
        metrics_against_trained_steps(results, out / "trained_steps.png")
        metrics_against_sampling_steps(results, out / "sampling_steps.png", trained=max(c.toy.trained_steps))


if __name__ == "__main__":
    run(main)
