"""The Hydra tree, params.yaml and the typed configuration agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ufogen import config

ROOT = Path(__file__).parents[1]
OBJECTIVES = sorted(path.stem for path in (ROOT / "experiments/objective").glob("*.yaml"))
DATA = sorted(path.stem for path in (ROOT / "experiments/data").glob("*.yaml"))
PROFILES = sorted(path.stem for path in (ROOT / "experiments/profile").glob("*.yaml"))


def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(ROOT / "experiments"), version_base=None):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)


def test_committed_parameters_are_the_default_composition():
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == composed()


def test_params_yaml_states_every_parameter():
    assert config.to_dict(config.load(ROOT / "params.yaml")) == composed()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_a_valid_configuration(objective: str):
    config.build(config.Config, composed(f"objective={objective}"))


@pytest.mark.parametrize("data", DATA)
def test_every_data_source_is_a_valid_configuration(data: str):
    assert config.build(config.Config, composed(f"data={data}")).data.source == data


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_a_valid_configuration(profile: str):
    config.build(config.Config, composed(f"profile={profile}"))


TIMES = {"step_size": 250, "step_size_max": 0, "timesteps": "grid", "minimum_timestep": 0, "last_timestep_share": 0.0}


@pytest.mark.parametrize(
    "objective, axes",
    [
        ("siddm", {"parameterization", "reconstruction", "coupling"}),
        ("ddgan", {"parameterization", "reconstruction", "coupling", "critic_input"}),
    ],
)
def test_older_methods_differ_from_ufogen_on_their_axes_and_stand_at_the_published_step_size(objective, axes):
    ufogen, other = composed()["objective"], composed(f"objective={objective}")["objective"]
    assert {key for key in ufogen if ufogen[key] != other[key]} == axes | set(TIMES)
    assert {key: other[key] for key in TIMES} == TIMES
