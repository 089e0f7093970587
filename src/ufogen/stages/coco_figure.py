"""Draw the published numbers on COCO, and ours beside them where they have been measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ufogen import config
from ufogen.figures import published
from ufogen.stages.common import RESULTS, run

TABLE, FIGURE = Path("paper/published.yaml"), Path("paper/published.png")


def main(c: config.Config) -> None:
    """Write paper/published.png."""
    results = RESULTS / "coco_val2017.csv"
    ours = pd.read_csv(results) if results.is_file() else None
    published.fid_against_steps_and_time(published.read(TABLE), ours, FIGURE)


if __name__ == "__main__":
    run(main)
