"""Parameters: what is read, and what a mistake is answered with."""

import copy
import math
import re
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin

import pytest

from tests.settings import PARAMS, configured, make_objective
from ufogen import config
from ufogen.config import Config, allowed_at, build, load, to_dict
from ufogen.errors import UserError


@pytest.fixture
def params(tmp_path):
    """Write a parameter file with this text and return its path."""

    def write(text: str):
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return path

    return write


def test_absent_key_is_named_with_what_is_allowed(params):
    with pytest.raises(UserError, match=r"^parameter seed is missing; allowed: a whole number, 0 \.\.\. 4294967295$"):
        load(params(""))
    text = PARAMS.read_text().replace("  gamma: snr\n", "", 1)
    with pytest.raises(UserError, match="^parameter objective.gamma is missing; allowed: snr, truncated_snr"):
        load(params(text))


def test_mistyped_key_is_said_to_be_unknown_rather_than_the_right_one_missing(params):
    with pytest.raises(UserError, match=r"^unknown parameter objective\.gama; allowed in objective are parameterization, "):
        load(params(PARAMS.read_text().replace("  gamma: snr\n", "  gama: snr\n", 1)))


def test_parameters_survive_the_way_through_a_dictionary():
    settings = configured(seed=3, sampler={"ufogen_steps": [1, 8]})
    assert build(Config, to_dict(settings)) == settings


def test_overrides_go_before_the_file():
    overrides = ["seed=4", "trainer.updates=9", "sampler.ufogen_steps=[1,3]", "objective.r1_weight=1e-3"]
    settings, unchanged = load(PARAMS, overrides), load(PARAMS)
    assert (settings.seed, settings.trainer.updates, settings.trainer.batch_size) == (4, 9, unchanged.trainer.batch_size)
    assert settings.sampler.ufogen_steps == [1, 3]
    assert settings.objective.r1_weight == 0.001


def test_whole_number_is_taken_for_a_number():
    value = load(PARAMS, ["objective.r1_weight=2"]).objective.r1_weight
    assert value == 2.0
    assert isinstance(value, float)


@pytest.mark.parametrize("text", ["no", "'no'"])
def test_precision_no_may_stand_without_quotes(text):
    assert load(PARAMS, [f"trainer.precision={text}"]).trainer.precision == "no"


@pytest.mark.parametrize(
    ("override", "key", "value", "allowed"),
    [
        ("objectve.gamma=snr", "objectve", "", "objective, tuning, trainer"),
        ("objective.gama=snr", "objective.gama", "", "gamma, reconstruction_weight"),
        ("objective.gamma=snrr", "objective.gamma", "'snrr'", "snr, truncated_snr, constant"),
        ("objective.gamma=[snr]", "objective.gamma", "['snr']", "snr, truncated_snr"),
        ("trainer.precision=yes", "trainer.precision", "True", "auto, no, bf16, fp16"),
        ("trainer.decay=no", "trainer.decay", "False", "constant, cosine"),
        ("seed=0.5", "seed", "0.5", "a whole number, 0 ... 4294967295"),
        ("seed=true", "seed", "True", "a whole number, 0 ... 4294967295"),
        ("seed=-1", "seed", "-1", "a whole number, 0 ... 4294967295"),
        ("seed=", "seed", "None|''", "a whole number, 0 ... 4294967295"),
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
        ("sampler.base_solvers=[euler]", "sampler.base_solvers[0]", "'euler'", "ddim, dpm++"),
        ("objective.entry_share=1.5", "objective.entry_share", "1.5", "a number, 0 ... 1"),
        ("trainer.beta2=1", "trainer.beta2", "1", "a number, 0 or greater, below 1"),
        ("objective.step_size_max=200", "objective.step_size_max", "200", "0, or a whole number, 250 or greater"),
        ("pretrain.decoder=", "pretrain.decoder", "None|''", "a section of keys"),
        ("toy.trained_steps=[1,3]", "toy.trained_steps[1]", "3", "divisors of 1000"),
    ],
)
def test_mistake_names_the_key_the_value_and_what_is_allowed(override, key, value, allowed):
    with pytest.raises(UserError) as error:
        load(PARAMS, [override])
    message = str(error.value)
    assert "\n" not in message
    assert f"parameter {key}" in message
    assert any(option in message for option in value.split("|"))
    assert re.search(rf"allowed.*{re.escape(allowed)}", message), message


def test_missing_file_is_a_user_error_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match="absent.yaml not found: run from the root of the repository"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("text", ["seed: [", "- 1\n- 2", "seed: ${absent}"], ids=["syntax", "list", "interpolation"])
def test_unreadable_file_is_a_user_error(params, text):
    with pytest.raises(UserError, match=r"params\.yaml cannot be read"):
        load(params(text))


def test_values_that_do_not_fit_the_schedule_are_named():
    objective = make_objective()
    config.check_timesteps(objective, 1000)
    for key, value, allowed in (
        ("step_size", 1001, "1 ... 1000"), ("step_size_max", 1001, "0, 250 ... 1000"), ("minimum_timestep", 1000, "0 ... 999"),
    ):  # fmt: skip
        changes = {"step_size_max": 0, key: value} if key == "step_size" else {key: value}
        with pytest.raises(UserError, match=rf"^parameter objective\.{key} is {value}; allowed: {re.escape(allowed)}$"):
            config.check_timesteps(replace(objective, **changes), 1000)


def test_latents_of_a_round_that_is_not_trained_are_refused():
    rounds = to_dict(configured().pretrain.denoiser)["rounds"]
    rounds[0]["autoencoder_round"] = 4
    with pytest.raises(UserError, match=r"^parameter pretrain\.denoiser\.rounds\[0\]\.autoencoder_round is 4; .*0 \.\.\. 3$"):
        configured(pretrain={"denoiser": {"rounds": rounds}})


def test_prefix_stands_before_the_key():
    with pytest.raises(UserError, match=r"^parameter arms\.x\.objective\.gamma is 'a'; allowed: snr"):
        build(config.Objective, to_dict(configured().objective) | {"gamma": "a"}, "arms.x.objective.")


# every value of params.yaml

Place = tuple[str | int, ...]


def places(tree: Any, place: Place = ()) -> list[Place]:
    """Of every value, of every list beside its first element, in params.yaml."""
    if isinstance(tree, dict):
        return [found for key, value in tree.items() for found in places(value, (*place, key))]
    return [place, *places(tree[0], (*place, 0))] if isinstance(tree, list) else [place]


TREE = to_dict(load(PARAMS))
PLACES = places(TREE)


def named(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def wrong_values(value: Any, hint: Any, allowed: str) -> list:
    """Values of another kind or out of the range that stands in the words `allowed`."""
    bare = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if get_origin(bare) is Literal:
        return [None, 5, True, "nonsense", [value]]
    if isinstance(value, list):
        return [None, 5, "nonsense", [], {"a": 1}]
    if bare in (bool, str):
        return [None, 5, [value], 0.5]
    assert re.search(r"number, -?\d", allowed), "a number without a range"
    low, high = re.search(r"number, (-?\d+)", allowed)[1], re.search(r"(?:\.\.\.|below) (\d+)", allowed)
    values = [None, True, "nonsense", int(low) - 1, -math.inf, math.inf, math.nan]
    values += [0.5] if bare is int else []
    return values + ([int(high[1]) + ("..." in allowed)] if high else [])


@pytest.mark.parametrize("place", PLACES, ids=named)
def test_every_parameter_refuses_what_is_out_of_its_range_in_one_line(place):
    allowed, hint = allowed_at(Config, place), config.hint_of(Config, place)
    tree = copy.deepcopy(TREE)
    *way, key = place
    section = tree
    for part in way:
        section = section[part]
    for wrong in wrong_values(section[key], hint, allowed):
        section[key] = wrong
        with pytest.raises(UserError) as error:
            build(Config, tree)
        assert str(error.value) == f"parameter {named(place)} is {wrong!r}; allowed: {allowed}"


def test_no_parameter_has_a_default_in_the_code():
    def sections(kind: type) -> list[type]:
        within = (config.hint_of(kind, (field.name,)) for field in fields(kind))
        bare = (get_args(hint)[0] if hasattr(hint, "__metadata__") else hint for hint in within)
        inner = [get_args(hint)[0] if get_origin(hint) is list else hint for hint in bare]
        return [kind, *(found for hint in inner if is_dataclass(hint) for found in sections(hint))]

    found = sections(Config)
    assert len(found) > 15
    assert [f for kind in found for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING] == []
    assert all(kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(") for kind in found)
