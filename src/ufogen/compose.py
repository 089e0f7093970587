"""Compose experiments/ into what the stages read: params.yaml, and pipelines/ablations/arms.yaml from experiments/ablation.

`python -m ufogen.compose [OVERRIDE ...]`, for example `profile=gpu`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ufogen.errors import UserError
from ufogen.files import write_whole

EXPERIMENTS = Path("experiments")
HEADER = "# Written by `python -m ufogen.compose` from experiments/ablation: one file an arm.\n"


def parameters(overrides: list[str]) -> DictConfig:
    """What params.yaml holds."""
    with initialize_config_dir(str(EXPERIMENTS.resolve()), version_base=None):
        return compose("config", overrides=overrides)


def arms(overrides: list[str]) -> dict:
    """What pipelines/ablations/arms.yaml holds: names by their number of seeds, and each arm's own sections.

    `decisive` arms have the most seeds, `single` ones one, `repeated` those between. Raises `UserError` where these have
    different numbers.
    """
    found = {}
    with initialize_config_dir(str(EXPERIMENTS.resolve()), version_base=None):
        for path in sorted((EXPERIMENTS / "ablation").glob("*.yaml")):
            tree = OmegaConf.to_container(compose("config", overrides=[*overrides, f"+ablation={path.stem}"]), resolve=True)
            found[path.stem] = tree["ablation"] | {"objective": tree["objective"], "trainer": tree["trainer"]}
    seeds = sorted({arm["seeds"] for arm in found.values()} - {1})
    if len(seeds) > 2:
        raise UserError(f"ablation.seeds in experiments/ablation has the values {seeds}; allowed: 1 and two others")
    counts = {"decisive": max(seeds, default=1), "repeated": min(seeds, default=1), "single": 1}
    groups = {group: [name for name, arm in found.items() if arm["seeds"] == n] for group, n in counts.items()}
    if counts["decisive"] == counts["repeated"]:
        groups["repeated"] = []
    return {"groups": groups, "seeds": {group: list(range(n)) for group, n in counts.items()}, "arms": found}


def main(overrides: list[str]) -> None:
    values, found = parameters(overrides), arms(overrides)
    write_whole(Path("params.yaml"), OmegaConf.to_yaml(values, resolve=True).encode())
    write_whole(Path("pipelines/ablations/arms.yaml"), (HEADER + OmegaConf.to_yaml(OmegaConf.create(found))).encode())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
