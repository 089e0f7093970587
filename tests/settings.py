"""Settings of tests: params.yaml, the only place where the values stand, with what a test changes."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ufogen import config
from ufogen.precision import resolved

PARAMS = Path(__file__).parents[1] / "params.yaml"
COMPARED = Path(__file__).parents[1] / "pipelines/comparison/arms.yaml"
# UFOGen at the paper's step size, with nothing of what this repository adds to it
PLAIN = {
    "reconstruction_weight": 1.0, "step_size": 250, "step_size_max": 0, "timesteps": "grid", "minimum_timestep": 0,
    "entry_timestep": 0, "entry_share": 0.0, "entry_noise": "diffused", "s_law": "step",
    "generator_init": "base", "r1_weight": 1.0, "r2_weight": 0.0, "mismatched_share": 0.0, "discriminator_heads": "output",
}  # fmt: skip


def configured(**changes: Any) -> config.Config:
    """params.yaml, as a stage gets it, with other values: a section, or a dictionary of those in it that change."""
    return config.build(config.Config, _merged(config.to_dict(_committed()), changes))


@cache
def _committed() -> config.Config:
    given = config.load(PARAMS)
    return resolved(given, given.device)


def make_objective(**changes: Any) -> config.Objective:
    """The plain objective with changes."""
    return configured(objective=PLAIN | changes).objective


def make_trainer(**changes: Any) -> config.Trainer:
    """In float32, and G moves from the first update on."""
    return configured(trainer={"precision": "no", "discriminator_first": 0} | changes).trainer


def make_distillation(method: str, **changes: Any) -> config.Distillation:
    """A method's settings as the comparison has them, with changes."""
    return config.build_distillation(yaml.safe_load(COMPARED.read_text())["arms"][method]["distillation"] | changes)


def make_data(**changes: Any) -> config.Data:
    return configured(data=changes).data


def make_base(source: str, path: str | Path, **changes: Any) -> config.Base:
    return configured(base={"source": source, "path": str(path)} | changes).base


def make_toy(**changes: Any) -> config.Toy:
    return configured(toy=changes).toy


def _merged(tree: dict, changes: dict) -> dict:
    new = dict(tree)
    for key, value in changes.items():
        value = config.to_dict(value) if is_dataclass(value) else value
        new[key] = _merged(tree[key], value) if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
    return new


def make_autoencoder(**changes: Any) -> config.Autoencoder:
    return configured(pretrain={"autoencoder": changes}).pretrain.autoencoder


def make_denoiser(**changes: Any) -> config.Denoiser:
    return configured(pretrain={"denoiser": changes}).pretrain.denoiser
