"""Where the stages of the comparison find what another one wrote."""

from __future__ import annotations

from pathlib import Path

from ufogen import files
from ufogen.files import ARTIFACTS

CHAIN = Path("pipelines/comparison/dvc.yaml")
ARMS = CHAIN.with_name("arms.yaml")
RUNS = files.RUNS / "comparison"
BASE = ARTIFACTS / "comparison" / "base"
LATENCY = ARTIFACTS / "comparison" / "latency.json"
