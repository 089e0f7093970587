"""Numbers that were not computed by this code, with their sources beside them."""

from pathlib import Path

import yaml


def golden(name: str) -> dict:
    """The content of tests/golden/NAME.yaml."""
    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text())
