"""Where the stages of the ablation study find what another one wrote."""

from __future__ import annotations

from pathlib import Path

from ufogen import files
from ufogen.files import ARTIFACTS

CHAIN = Path("pipelines/ablations/dvc.yaml")
ARMS = CHAIN.with_name("arms.yaml")
RUNS = files.RUNS / "ablations"
SETS = ARTIFACTS / "ablations" / "sets"
