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
    """What pipelines/ablations/arms.yaml holds: the runs of the study by name, and each arm's own sections."""
    found = {}
    with initialize_config_dir(str(EXPERIMENTS.resolve()), version_base=None):
        for path in sorted((EXPERIMENTS / "ablation").glob("*.yaml")):
            tree = OmegaConf.to_container(compose("config", overrides=[*overrides, f"+ablation={path.stem}"]), resolve=True)
            found[path.stem] = tree["ablation"] | {"objective": tree["objective"], "trainer": tree["trainer"]}
    runs = {f"{name}-{seed}": {"arm": name, "seed": seed} for name, arm in found.items() for seed in range(arm["seeds"])}
    return {"runs": runs, "arms": found}


def main(overrides: list[str]) -> None:
    values, found = parameters(overrides), arms(overrides)
    write_whole(Path("params.yaml"), OmegaConf.to_yaml(values, resolve=True).encode())
    write_whole(Path("pipelines/ablations/arms.yaml"), (HEADER + OmegaConf.to_yaml(OmegaConf.create(found))).encode())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
