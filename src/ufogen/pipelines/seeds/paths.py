"""Where a training with another seed leaves what it makes."""

from __future__ import annotations

from pathlib import Path

from ufogen.files import ARTIFACTS, RESULTS

TABLES = RESULTS / "seeds"


def of_seed(seed: int, name: str) -> Path:
    """The folder artifacts/seeds/SEED/NAME."""
    return ARTIFACTS / "seeds" / str(seed) / name
