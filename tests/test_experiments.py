"""The Hydra tree, params.yaml and the typed configuration agree."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ufogen import compose as compose_stage
from ufogen import config
from ufogen.diffusion.sampling import SOLVERS
from ufogen.distillation.methods import METHODS
from ufogen.errors import UserError
from ufogen.schema.distillation import SECTIONS
from ufogen.schema.kinds import Solver

ROOT = Path(__file__).parents[1]
OBJECTIVES = sorted(path.stem for path in (ROOT / "experiments/objective").glob("*.yaml"))
BASES = sorted(path.stem for path in (ROOT / "experiments/base").glob("*.yaml"))
DATA = sorted(path.stem for path in (ROOT / "experiments/data").glob("*.yaml"))
PROFILES = sorted(path.stem for path in (ROOT / "experiments/profile").glob("*.yaml"))


def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(ROOT / "experiments"), version_base=None):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)


@cache
def default_arms() -> dict:
    return compose_stage.arms([])


def test_committed_parameters_are_the_default_composition():
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == composed()


def test_params_yaml_states_every_parameter():
    assert config.to_dict(config.load(ROOT / "params.yaml")) == composed()


def test_committed_arms_are_the_compositions_of_experiments_ablation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    committed = yaml.safe_load((ROOT / "pipelines/ablations/arms.yaml").read_text())
    assert committed == default_arms()
    assert set(committed["arms"]) == {path.stem for path in (ROOT / "experiments/ablation").glob("*.yaml")}


def test_committed_methods_are_the_compositions_of_experiments_distillation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    committed = yaml.safe_load((ROOT / "pipelines/comparison/arms.yaml").read_text())
    assert committed == compose_stage.compared([])
    assert set(committed["arms"]) == {path.stem for path in (ROOT / "experiments/distillation").glob("*.yaml")}
    for name, arm in committed["arms"].items():
        assert ("objective" in arm) != ("distillation" in arm), name
        assert set(arm) - {"objective", "distillation"} == {"description", "seeds", "steps", "trainer"}, name
        config.build(config.Trainer, arm["trainer"])
    assert {arm["distillation"]["method"] for arm in committed["arms"].values() if "distillation" in arm} == set(METHODS)


def test_methods_of_the_schema_are_those_that_can_be_trained():
    assert set(METHODS) == set(SECTIONS)
    for name in METHODS:
        tree = composed(f"+distillation={name}")["distillation"]
        assert config.build_distillation(tree).method == name


def test_every_setting_of_a_distillation_says_where_it_is_from():
    for name in METHODS:
        lines = (ROOT / f"experiments/distillation/{name}.yaml").read_text().split("\ndistillation:\n")[1].splitlines()
        values = [line for line in lines if re.match(r"  \w+: \S", line) and not line.startswith("  method:")]
        sources = ("paper", "authors' code", "diffusers", "ours", "as above")
        assert values and [line for line in values if not any(source in line.partition("#")[2] for source in sources)] == []


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"method": "nosuch"}, "parameter distillation.method is 'nosuch'; allowed: progressive, consistency, dmd2, yoso"),
        ({"method": "consistency", "skipping_step": 20}, "parameter distillation.huber_c is missing; allowed: a number, 0 or"),
        ({"method": "consistency", "k": 20}, "unknown parameter distillation.k; allowed in distillation are method, skipping"),
    ],
)
def test_settings_that_are_no_methods_are_one_line(tree, message):
    with pytest.raises(UserError) as error:
        config.build_distillation(tree, "distillation.")
    assert str(error.value).startswith(message)


def test_the_gan_alone_has_no_reconstruction_and_sees_pure_noise_and_clean_data():
    ufogen, gan = composed()["objective"], composed("objective=gan")["objective"]
    differing = {key for key in ufogen if ufogen[key] != gan[key]}
    assert gan["reconstruction"] == "none" and gan["timesteps"] == "grid" and gan["s_law"] == "step"
    assert gan["step_size"] > gan["entry_timestep"]  # the grid is the entry alone, and s is clean data
    assert differing <= {
        "reconstruction", "step_size", "step_size_max", "timesteps", "minimum_timestep", "entry_share", "s_law",
        "generator_init",
    }  # fmt: skip


def test_arms_differ_from_ufogen_in_what_their_file_says_and_in_nothing_else():
    arms = yaml.safe_load((ROOT / "pipelines/ablations/arms.yaml").read_text())["arms"]
    for name, arm in arms.items():
        config.build(config.Objective, arm["objective"])
        config.build(config.Trainer, arm["trainer"])
        said, file = {}, ROOT / f"experiments/ablation/{name}.yaml"
        while file.stem != "ufogen":
            tree = yaml.safe_load(file.read_text())
            said = tree.get("objective", {}) | tree.get("trainer", {}) | said
            file = file.with_stem(tree["defaults"][0])
        found = {
            key: arm[section][key]
            for section in ("objective", "trainer")
            for key in arm[section]
            if arm[section][key] != arms["ufogen"][section][key]
        }
        reference = arms["ufogen"]["objective"] | arms["ufogen"]["trainer"]
        said = {key: value for key, value in said.items() if value != reference[key]}  # a file may go back to it
        assert found == said, name


def test_arms_are_runs_by_name_with_any_number_of_seeds(tmp_path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    path = tmp_path / "experiments/ablation/k_1000.yaml"
    path.write_text(path.read_text().replace("seeds: 3", "seeds: 5"))
    monkeypatch.chdir(tmp_path)
    found = compose_stage.arms([])
    assert set(found) == {"runs", "arms"}
    for name, arm in found["arms"].items():
        seeds = [run["seed"] for run in found["runs"].values() if run["arm"] == name]
        assert seeds == list(range(arm["seeds"]))
    assert found["arms"]["k_1000"]["seeds"] == 5
    assert all(key == f"{run['arm']}-{run['seed']}" for key, run in found["runs"].items())
    first = [run["seed"] for run in found["runs"].values()]
    assert first[: first.index(1)] == [0] * 5  # the arms with the most seeds, one seed after another


def test_what_is_changed_in_the_main_chain_leaves_the_arms_of_the_ablations_as_they_are():
    """A uniform law of s, for one, is a good main chain, and no arm with the posterior could have it."""
    changed = ["objective.s_law=uniform", "objective=siddm", "++objective.step_size=7", "+trainer.updates=7"]
    assert compose_stage.arms(changed) == default_arms()
    assert compose_stage.arms(["ablations.updates=7"]) != default_arms()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective=nosuch", "parameter objective is 'nosuch'; allowed: author_code, ddgan, gan, siddm, ufogen"),
        ("profile=nosuch", "parameter profile is 'nosuch'; allowed: clipart, cpu, gpu, sd15, smoke"),
        ("objectve=siddm", "unknown parameter objectve; allowed in the file are seed, device, "),
        ("objective.gama=snr", "unknown parameter objective.gama; allowed in objective are parameterization, "),
        ("pretrain.denoiser.x=3", "unknown parameter pretrain.denoiser.x; allowed in pretrain.denoiser are channels, "),
        ("objective.gamma=nosuch", "parameter objective.gamma is 'nosuch'; allowed: snr, truncated_snr"),
        ("trainer.updates=0", "parameter trainer.updates is 0; allowed: a whole number, 1 or greater"),
        ("objective.step_size_max=200", "parameter objective.step_size_max is 200; allowed: 0, or a whole number, 250"),
        ("~seed", "parameter seed is missing; allowed: a whole number, 0 ... 4294967295"),
        ("+extra=1", "unknown parameter extra; allowed in the file are seed, "),
        ("base=diffusers", "parameter base.path is missing; allowed: text"),
        ("objective.gamma={", "parameters 'objective.gamma={' cannot be composed: no viable alternative"),
        ("two words", "parameters 'two words' cannot be composed: "),
        ("", "parameters '' cannot be composed: "),
        ("=", "parameters '=' cannot be composed: "),
        ("a=b=c", "parameters 'a=b=c' cannot be composed: "),
        ("-x", "parameters '-x' cannot be composed: "),
        ("data=null", "parameters 'data=null' cannot be composed: Config group override must be a string or a list"),
        ("profile=smoke,gpu", "parameters 'profile=smoke,gpu' cannot be composed: Ambiguous value"),
        ("data.path=${nosuch}", "parameters 'data.path=${nosuch}' cannot be composed: Interpolation key 'nosuch' not found"),
    ],
)
def test_what_cannot_be_composed_is_one_line_and_writes_nothing(override, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        compose_stage.command([override])
    said = capsys.readouterr().err
    assert error.value.code == 2 and said.startswith(f"error: {message}") and "; allowed" in said
    assert said.count("\n") == 1 and len(said) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["experiments"]


def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: cannot write pipelines/ablations/.*: No such file or directory$"):
        compose_stage.command([])


def test_a_value_that_an_arm_alone_makes_impossible_names_the_arm(tmp_path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    path = tmp_path / "experiments/ablation/k_1000.yaml"
    path.write_text(path.read_text().replace("step_size: 1000", "step_size: 0"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^parameter arms\.k_1000\.objective\.step_size is 0; allowed: a whole number, 1 or"):
        compose_stage.main([])


def test_no_experiment_asks_for_bfloat16_where_auto_would_not():
    files = sorted((ROOT / "experiments").rglob("*.yaml"))
    lines = [line.split("#")[0] for path in files for line in path.read_text().splitlines()]
    asked = [line.split(":")[1].strip(" '\"") for line in lines if "precision:" in line]
    assert len(asked) > 8 and set(asked) == {"auto", "no"}


def test_the_solvers_of_the_schema_are_those_of_sampling():
    assert get_args(Solver) == SOLVERS


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_a_valid_configuration(objective: str):
    config.build(config.Config, composed(f"objective={objective}"))


@pytest.mark.parametrize("data", DATA)
def test_every_data_source_is_a_valid_configuration(data: str):
    assert config.build(config.Config, composed(f"data={data}")).data.source == data


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_a_valid_configuration(profile: str):
    config.build(config.Config, composed(f"profile={profile}"))


def test_sd15_is_the_papers_setting_as_far_as_it_is_known():
    c = config.build(config.Config, composed("profile=sd15"))
    assert c.base.source == "sd15" and c.data.source == "webdataset" and c.trainer.updates == 50_000
    assert c.processes * c.trainer.batch_size * c.trainer.accumulation == 1024
    assert (c.trainer.generator_learning_rate, c.trainer.discriminator_learning_rate) == (1e-6, 1e-4)
    assert (c.trainer.beta1, c.objective.step_size, c.objective.r1_weight, c.objective.r1_interval) == (0.0, 250, 1e-5, 16)


def test_under_sd15_the_gan_of_the_comparison_is_a_gan_and_another_objective_can_be_asked_for():
    paper = composed("profile=sd15", "+distillation=ufogen")["objective"]
    gan = composed("profile=sd15", "+distillation=gan")["objective"]
    assert paper["reconstruction"] == "x_0" and paper["entry_timestep"] == 0
    assert gan == composed("objective=gan")["objective"]
    assert composed("profile=sd15", "objective=siddm")["objective"] == composed("objective=siddm")["objective"]


def test_every_setting_of_sd15_says_how_certain_it_is():
    files = ("profile/sd15.yaml", "objective/ufogen_paper.yaml")
    lines = [line for file in files for line in (ROOT / "experiments" / file).read_text().splitlines()]
    values = [line for line in lines if re.match(r" *(- )?[a-z/_ ]+\w*: \S", line.split("#")[0])]
    assert len(values) > 30
    tags = ("confirmed", "recalled", "author's code", "ours")
    assert [line for line in values if not any(tag in line.partition("#")[2] for tag in tags)] == []


@pytest.mark.parametrize("base", BASES)
def test_every_base_is_a_valid_configuration(base: str):
    c = config.build(config.Config, composed(f"base={base}", *(["base.path=folder"] if base == "diffusers" else [])))
    assert c.base.tracked == c.base.path or (ROOT / c.base.tracked).is_file()


PUBLISHED = {
    "step_size": 250,
    "step_size_max": 0,
    "timesteps": "grid",
    "minimum_timestep": 0,
    "entry_share": 0.0,
    "r1_weight": 0.2,
    "r2_weight": 0.0,
    "mismatched_share": 0.0,
    "discriminator_heads": "output",
    "entry_timestep": 0,
    "entry_noise": "diffused",
    "s_law": "step",
    "generator_init": "base",
}


@pytest.mark.parametrize(
    "objective, axes",
    [
        ("siddm", {"parameterization", "reconstruction", "coupling"}),
        ("ddgan", {"parameterization", "reconstruction", "coupling", "discriminator_input"}),
    ],
)
def test_older_methods_differ_from_ufogen_on_their_axes_and_stand_at_the_published_step_size(objective, axes):
    ufogen, other = composed()["objective"], composed(f"objective={objective}")["objective"]
    differing = {key for key in ufogen if ufogen[key] != other[key]}
    assert axes <= differing <= axes | set(PUBLISHED)
    assert {key: other[key] for key in PUBLISHED} == PUBLISHED
