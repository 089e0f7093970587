"""Read parameters: `params.yaml` through `load`, any tree through `build`. What is wrong with one is said in a line that
names the key, the value and what is allowed. The sections are those of schema/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ufogen.errors import UserError
from ufogen.schema import Config as Config  # what other modules know as config.Config, and so on
from ufogen.schema.chain import Base as Base
from ufogen.schema.chain import Data as Data
from ufogen.schema.chain import Evaluation as Evaluation
from ufogen.schema.chain import Objective as Objective
from ufogen.schema.chain import Sampler as Sampler
from ufogen.schema.chain import Trainer as Trainer
from ufogen.schema.chain import Tuning as Tuning
from ufogen.schema.distillation import DMD2 as DMD2
from ufogen.schema.distillation import SECTIONS
from ufogen.schema.distillation import YOSO as YOSO
from ufogen.schema.distillation import Consistency as Consistency
from ufogen.schema.distillation import Distillation as Distillation
from ufogen.schema.distillation import Progressive as Progressive
from ufogen.schema.kinds import CocoSplit as CocoSplit
from ufogen.schema.kinds import Heads as Heads
from ufogen.schema.kinds import Refused as Refused
from ufogen.schema.kinds import ResizeFilter as ResizeFilter
from ufogen.schema.pretrain import Autoencoder as Autoencoder
from ufogen.schema.pretrain import AutoencoderRound as AutoencoderRound
from ufogen.schema.pretrain import Decoder as Decoder
from ufogen.schema.pretrain import Denoiser as Denoiser
from ufogen.schema.pretrain import DenoiserRound as DenoiserRound
from ufogen.schema.pretrain import Pretrain as Pretrain
from ufogen.schema.studies import Ablations as Ablations
from ufogen.schema.studies import Applications as Applications
from ufogen.schema.studies import Coco as Coco
from ufogen.schema.studies import CocoSize as CocoSize
from ufogen.schema.studies import Comparison as Comparison
from ufogen.schema.studies import ControlTraining as ControlTraining
from ufogen.schema.studies import Release as Release
from ufogen.schema.studies import Toy as Toy
from ufogen.schema.studies import ToyMethod as ToyMethod

T = TypeVar("T")
SAID_FIRST = {
    "unexpected_keyword_argument": 0,
    "invalid_key": 0,
    "missing": 2,
}  # a mistyped key is unknown, and the right one is missing


def load(path: str | Path = "params.yaml", overrides: list[str] | None = None) -> Config:
    """Read a YAML file and `key=value` overrides into a `Config`. Raises `UserError` on anything not allowed."""
    try:
        given = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides or []))
        tree = OmegaConf.to_container(given, resolve=True)
    except FileNotFoundError as error:
        raise UserError(
            f"parameter file {path} not found: run from the root of the repository, which pip does not install"
        ) from error
    except Exception as error:  # the YAML parser's exceptions share no base class with OmegaConf's
        raise UserError(f"parameter file {path} cannot be read: {error}") from error
    return build(Config, tree)


def to_dict(settings: Any) -> dict:
    """A section as a plain nested dictionary."""
    return asdict(settings)


def build(kind: type[T], tree: Any, prefix: str = "") -> T:
    """An instance of the section `kind` from a nested dictionary, which has to name every key.

    Raises `UserError` that names the key after `prefix`, the value and what is allowed.
    """
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda found: SAID_FIRST.get(found["type"], 1))
        raise UserError(_line(kind, first, prefix)) from error


def build_distillation(tree: dict, prefix: str = "") -> Distillation:
    """The section of the method that the tree names. Raises `UserError` as `build` does."""
    method = tree.get("method")
    if method not in SECTIONS:
        raise UserError(f"parameter {prefix}method is {method!r}; allowed: {', '.join(SECTIONS)}")
    return build(SECTIONS[method], tree, prefix)


def check_timesteps(objective: Objective, timesteps: int) -> None:
    """Raise `UserError` where the step sizes or the lowest timestep do not fit a schedule of T = `timesteps`."""
    o, entry = objective, objective.entry_timestep or timesteps - 1
    for key, value, fits, allowed in (
        ("step_size", o.step_size, o.step_size <= timesteps, f"1 ... {timesteps}"),
        ("step_size_max", o.step_size_max, o.step_size_max <= timesteps, f"0, {o.step_size} ... {timesteps}"),
        ("entry_timestep", o.entry_timestep, o.entry_timestep < timesteps, f"0 ... {timesteps - 1}"),
        ("minimum_timestep", o.minimum_timestep, o.minimum_timestep <= entry, f"0 ... {entry}"),
        ("s_high", o.s_high, o.s_law != "uniform" or o.s_high <= entry, f"0 ... {entry}"),
    ):
        if not fits:
            raise UserError(f"parameter objective.{key} is {value}; allowed: {allowed}")


def allowed_at(kind: type, place: Sequence[str | int]) -> str:
    """What a value at a place within a section may be, in words: keys, and numbers within lists."""
    return allowed(hint_of(kind, place))


def allowed(hint: Any) -> str:
    """What a value of this type may be, in words."""
    bare, bounds = _bare(hint), _bounds(hint)
    if is_dataclass(bare):
        return "a section of keys"
    if get_origin(bare) is Literal:
        return ", ".join(map(str, get_args(bare)))
    if get_origin(bare) is list:
        of = get_args(bare)[0]
        if get_origin(_bare(of)) is Literal:
            return f"a list with any of {allowed(of)}"
        return (
            "a list of sections"
            if is_dataclass(of)
            else f"a list of {allowed(of).removeprefix('a ').replace('number', 'numbers')}"
        )
    if bare in (int, float):
        return ("a whole number, " if bare is int else "a number, ") + bounds
    return {bool: "true or false", str: "text"}[bare]


def hint_of(kind: type, place: Sequence[str | int]) -> Any:
    """The type that stands at a place within a section."""
    for part in place:
        kind = get_type_hints(kind, include_extras=True)[part] if is_dataclass(kind) else get_args(_bare(kind))[0]
    return kind


def unknown(kind: type, place: Sequence[str | int], prefix: str = "") -> str:
    """The line that refuses a place within a section: its first key that is not there, and those that are."""
    for n, part in enumerate(place):
        section = hint_of(kind, place[:n])
        known = [field.name for field in fields(section)] if is_dataclass(section) else []
        if known and part not in known:
            name = _name(prefix, place[:n]).rstrip(".")
            return f"unknown parameter {name}{name and '.'}{part}; allowed in {name or 'the file'} are {', '.join(known)}"
    return f"unknown parameter {_name(prefix, place)}"


def _line(kind: type, found: dict, prefix: str) -> str:
    """One of pydantic's complaints."""
    place, refused = found["loc"], found.get("ctx", {}).get("error")
    if SAID_FIRST.get(found["type"]) == 0:
        return unknown(kind, place, prefix)
    name = _name(prefix, place)
    if isinstance(refused, Refused):
        key = f"{name}.{refused.key}" if place else prefix + refused.key
        return f"parameter {key} is {refused.value!r}; allowed: {refused.allowed}"
    if found["type"] == "missing":
        return f"parameter {name} is missing; allowed: {allowed_at(kind, place)}"
    return f"parameter {name.rstrip('.') or 'file'} is {found['input']!r}; allowed: {allowed_at(kind, place)}"


def _name(prefix: str, place: Sequence[str | int]) -> str:
    """`sampler.ufogen_steps[1]`."""
    return prefix + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _bounds(hint: Any) -> str:
    """Of a number: `1 or greater`, `0 ... 1`, `0 or greater, below 1`."""
    found: dict[str, Any] = {}
    for field in getattr(hint, "__metadata__", ()):
        if isinstance(field, FieldInfo):
            for bound in field.metadata:
                found |= {key: getattr(bound, key) for key in ("ge", "le", "lt") if hasattr(bound, key)}
    if "le" in found:
        return f"{found['ge']} ... {found['le']}"
    return f"{found.get('ge')} or greater" + (f", below {found['lt']}" if "lt" in found else "")
