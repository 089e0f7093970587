"""Draw the published numbers on COCO, and ours beside them where they have been measured the same way."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from ufogen import config
from ufogen.figures import published
from ufogen.pipelines.stage import RESULTS, run

TABLE, FIGURE = Path("paper/published.yaml"), Path("paper/published.png")
PROMPTS = 5000


def main(c: config.Config) -> None:
    """Write paper/published.png."""
    published.fid_against_steps_and_time(published.read(TABLE), comparable(RESULTS / "coco_val2017.json"), FIGURE)


def comparable(path: Path) -> pd.DataFrame | None:
    """Our rows; None where there are none, or where prompts or Inception's weights are not those of published numbers."""
    if not path.is_file():
        return None
    card = json.loads(path.read_text())
    if card["dataset"]["prompts"] != PROMPTS or not card["fid"]["published_weights"]:
        return None
    return pd.DataFrame(card["rows"])


if __name__ == "__main__":
    run(main)
