"""Draw the figures of the laboratory in two dimensions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ufogen import config
from ufogen.errors import UserError
from ufogen.figures.laboratory import metrics_against_sampling_steps, metrics_against_trained_steps, panels_of_samples
from ufogen.stages.common import RESULTS, publish, run
from ufogen.stages.laboratory import samples_of

FIGURES = Path("paper/laboratory")


def main(c: config.Config) -> None:
    """Write paper/laboratory. Raises `UserError` where the arms are not there yet."""
    try:
        results, samples = pd.read_csv(RESULTS / "laboratory.csv"), samples_of(c.laboratory)
    except OSError as error:
        raise UserError(f"{error.filename} not found: run `dvc repro laboratory/dvc.yaml` first") from error
    with publish(FIGURES) as out:
        panels_of_samples(samples, results, out / "samples.png")
        metrics_against_trained_steps(results, out / "trained_steps.png")
        metrics_against_sampling_steps(results, out / "sampling_steps.png", trained=max(c.laboratory.trained_steps))


if __name__ == "__main__":
    run(main)
