"""Parameters: what is read, and what a mistake is answered with."""

import re

import pytest

from ufogen import config
from ufogen.config import Config, build, load, to_dict
from ufogen.errors import UserError


@pytest.fixture
def params(tmp_path):
    """Write a parameter file with this text and return its path."""

    def write(text: str):
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return path

    return write


def test_absent_keys_take_their_defaults(params):
    assert load(params("")) == Config()
    assert load(params("seed: 3\nobjective: {step_size: 500}")) == Config(seed=3, objective=config.Objective(step_size=500))


def test_parameters_survive_the_way_through_a_dictionary():
    settings = Config(seed=3, sampler=config.Sampler(ufogen_steps=[1, 8]))
    assert build(Config, to_dict(settings)) == settings


def test_overrides_go_before_the_file(params):
    path = params("seed: 3\ntrainer: {updates: 7, batch_size: 5}")
    settings = load(path, ["seed=4", "trainer.updates=9", "sampler.ufogen_steps=[1,3]", "objective.r1_weight=1e-3"])
    assert (settings.seed, settings.trainer.updates, settings.trainer.batch_size) == (4, 9, 5)
    assert settings.sampler.ufogen_steps == [1, 3]
    assert settings.objective.r1_weight == 0.001


def test_whole_number_is_taken_for_a_number(params):
    value = load(params("objective: {r1_weight: 2}")).objective.r1_weight
    assert value == 2.0
    assert isinstance(value, float)


@pytest.mark.parametrize("text", ["no", "'no'"])
def test_precision_no_may_stand_without_quotes(params, text):
    assert load(params(f"trainer: {{precision: {text}}}")).trainer.precision == "no"


@pytest.mark.parametrize(
    ("override", "key", "value", "allowed"),
    [
        ("objectve.gamma=snr", "objectve", "", "objective, trainer"),
        ("objective.gama=snr", "objective.gama", "", "gamma, reconstruction_weight"),
        ("objective.gamma=snrr", "objective.gamma", "'snrr'", "snr, truncated_snr, min_snr, kl, constant"),
        ("objective.gamma=[snr]", "objective.gamma", "['snr']", "snr, truncated_snr"),
        ("trainer.precision=yes", "trainer.precision", "True", "no, bf16, fp16"),
        ("trainer.decay=no", "trainer.decay", "False", "constant, cosine"),
        ("seed=0.5", "seed", "0.5", "a whole number, 0 or greater"),
        ("seed=true", "seed", "True", "a whole number, 0 or greater"),
        ("seed=-1", "seed", "-1", "a whole number, 0 or greater"),
        ("seed=", "seed", "None|''", "a whole number, 0 or greater"),
        ("objective.r1_weight=high", "objective.r1_weight", "'high'", "a number, 0 or greater"),
        ("objective.r1_weight=true", "objective.r1_weight", "True", "a number, 0 or greater"),
        ("objective.r1_weight=-0.1", "objective.r1_weight", "-0.1", "a number, 0 or greater"),
        ("objective.r1_weight=.inf", "objective.r1_weight", "inf", "a number, 0 or greater"),
        ("objective.r1_weight=.nan", "objective.r1_weight", "nan", "a number, 0 or greater"),
        ("trainer.compile=1", "trainer.compile", "1", "true or false"),
        ("base.path=5", "base.path", "5", "text"),
        ("sampler.ufogen_steps=4", "sampler.ufogen_steps", "4", "a list of whole numbers"),
        ("sampler.ufogen_steps=[]", "sampler.ufogen_steps", "[]", "a list of whole numbers"),
        ("sampler.ufogen_steps=[1,two]", "sampler.ufogen_steps[1]", "'two'", "a whole number, 1 or greater"),
        ("sampler.ufogen_steps=[1,-2]", "sampler.ufogen_steps[1]", "-2", "a whole number, 1 or greater"),
        ("trainer.batch_size=0", "trainer.batch_size", "0", "a whole number, 1 or greater"),
        ("trainer=5", "trainer", "5", "a section of keys"),
    ],
)
def test_mistake_names_the_key_the_value_and_what_is_allowed(params, override, key, value, allowed):
    with pytest.raises(UserError) as error:
        load(params(""), [override])
    message = str(error.value)
    assert f"parameter {key}" in message
    assert any(option in message for option in value.split("|"))
    assert re.search(rf"allowed.*{re.escape(allowed)}", message), message


def test_missing_file_is_a_user_error_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match="absent.yaml not found: run from the repository's root"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("text", ["seed: [", "- 1\n- 2", "seed: ${absent}"], ids=["syntax", "list", "interpolation"])
def test_unreadable_file_is_a_user_error(params, text):
    with pytest.raises(UserError, match=r"params\.yaml cannot be read"):
        load(params(text))
