"""Checks of what a caller passes to the Python interface: each returns the value or raises `UserError` with what is allowed."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Sequence

import torch

from ufogen.errors import UserError

LAST_SEED = 2**32 - 1  # torch's generator on a CPU reads 32 bits: a greater seed would repeat a smaller one's picture
MAX_PICTURES = 100_000  # in one call

Seeds = int | Iterable[int]


def device_of(device: str | torch.device) -> torch.device:
    """The device; `auto` is a GPU where torch has one. Raises `UserError` where torch cannot calculate on it."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = torch.ones(1, device=device)
            one.item()  # which the device `meta` does not have
            return one.device
    except Exception as error:  # torch has a kind of error for each mistake
        here = ["auto", "cpu"] + [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()]
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        raise UserError(f"device {device} cannot be used: {reason}; allowed here: {', '.join(here)}") from error


def checked_prompts(prompt: str | Sequence[str]) -> list[str]:
    """At least one prompt, each of them text in valid Unicode. Raises `UserError` for anything else."""
    prompts = [prompt] if isinstance(prompt, str) or not isinstance(prompt, Iterable) else list(prompt)
    if not 1 <= len(prompts) <= MAX_PICTURES:
        raise UserError(f"the number of prompts is {len(prompts)}; allowed: 1 ... {MAX_PICTURES}")
    for text in prompts:
        if not isinstance(text, str):
            raise UserError(f"a prompt is a text, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the prompt is not valid Unicode at character {error.start + 1}") from error
    return prompts


def checked_seeds(seed: Seeds) -> list[int]:
    """One seed or several, as a list. Raises `UserError` where one is none."""
    if not isinstance(seed, str) and isinstance(seed, Iterable):
        return [checked_seed(s) for s in seed]
    return [checked_seed(seed)]


def checked_seed(seed: int) -> int:
    """A whole number that torch's generator tells from all others. Raises `UserError` for anything else."""
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise UserError(f"a seed is a whole number, not {seed!r}") from error
    if not 0 <= number <= LAST_SEED:
        raise UserError(f"the seed is {number}; allowed: 0 ... {LAST_SEED}")
    return number


def seeds_of_pictures(seed: Seeds, prompts: int, n: int) -> list[int]:
    """The seed of every one of `n` pictures a prompt: counted up from one seed, or as listed. Raises `UserError`."""
    n = checked_count("number of pictures a prompt", n, 1, MAX_PICTURES // prompts)
    seeds = checked_seeds(seed)
    if not isinstance(seed, Iterable):
        if seeds[0] + n - 1 > LAST_SEED:
            raise UserError(f"the last of {n} seeds is {seeds[0] + n - 1}; allowed: 0 ... {LAST_SEED}")
        return [*range(seeds[0], seeds[0] + n)] * prompts
    if len(seeds) != prompts * n:
        raise UserError(f"there are {len(seeds)} seeds for {prompts * n} pictures")
    return seeds


def checked_number(name: str, value: float, least: float, most: float) -> float:
    """A number of a range, which NaN is in none of. Raises `UserError` for anything else."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the {name} is {value!r}; allowed: {least:g} ... {most:g}") from error
    if not least <= number <= most:
        raise UserError(f"the {name} is {value}; allowed: {least:g} ... {most:g}")
    return number


def checked_count(name: str, value: int, least: int, most: int | None = None) -> int:
    """A whole number of a range, without an end where `most` is None. Raises `UserError` for anything else."""
    allowed = f"{least} ... {most}" if most is not None else f"{least} or more"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise UserError(f"the {name} is {value!r}; allowed: whole numbers, {allowed}") from error
    if number < least or (most is not None and number > most):
        raise UserError(f"the {name} is {number}; allowed: {allowed}")
    return number
