"""Checks of what a caller passes to the Python interface: each returns the value or raises `UserError` with what is allowed."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import torch

from ufogen.errors import UserError

LAST_SEED = 2**32 - 1  # torch's generator on a CPU reads 32 bits: a greater seed would repeat a smaller one's picture
MAX_PICTURES = 100_000  # in one call

Seeds = int | Iterable[int]


def device_of(device: str | torch.device) -> torch.device:
    """The device; `auto` is a GPU where torch has one. Raises `UserError` where torch cannot use it."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # torch has one for each mistake
        raise UserError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error


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
    if not 1 <= n <= MAX_PICTURES // prompts:
        raise UserError(f"the number of pictures a prompt is {n}; allowed: 1 ... {MAX_PICTURES // prompts}")
    seeds = checked_seeds(seed)
    if not isinstance(seed, Iterable):
        if seeds[0] + n - 1 > LAST_SEED:
            raise UserError(f"the last of {n} seeds is {seeds[0] + n - 1}; allowed: 0 ... {LAST_SEED}")
        return [*range(seeds[0], seeds[0] + n)] * prompts
    if len(seeds) != prompts * n:
        raise UserError(f"there are {len(seeds)} seeds for {prompts * n} pictures")
    return seeds


def checked_strength(strength: float) -> float:
    """Raises `UserError` outside 0 ... 1."""
    if not 0 <= strength <= 1:
        raise UserError(f"the strength is {strength}; allowed: 0 ... 1")
    return strength


def checked_batch_size(size: int) -> int:
    """Raises `UserError` below 1."""
    if size < 1:
        raise UserError(f"the batch size is {size}; allowed: 1 or more")
    return size
