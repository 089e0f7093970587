"""Where the release's stages leave what they make, and the settings that differ from the main chain's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ufogen import config
from ufogen.errors import UserError
from ufogen.files import ARTIFACTS

ENCODED, TRAIN, SAMPLES = (ARTIFACTS / "release" / name for name in ("encoded", "train", "samples"))


def released(c: config.Config) -> config.Config:
    """The main chain's settings with the release's length, an average to suit, and its own share of items at the entry.

    Raises `UserError` where the least timestep of the others lies above the entry.
    """
    r, entry = c.release, c.objective.entry_timestep
    if entry and r.minimum_timestep > entry:
        raise UserError(f"parameter release.minimum_timestep is {r.minimum_timestep}; allowed: 0 ... {entry}")
    every = {"checkpoint_every": r.checkpoint_every, "sample_every": r.validate_every, "validate_every": r.validate_every}
    length = {"updates": r.updates, "discriminator_first": r.discriminator_first, "decay": r.decay, "ema_decay": r.ema_decay}
    objective = replace(c.objective, entry_share=r.entry_share, minimum_timestep=r.minimum_timestep)
    return replace(c, objective=objective, trainer=replace(c.trainer, **length, **every))


def start(c: config.Config) -> Path | None:
    """The folder of the generator that training goes on with, where one is given."""
    return Path(c.release.start) if c.release.start else None


def seeds(c: config.Config) -> list[config.Config]:
    """The settings with each of the seeds that noise is drawn with, and the solvers that the base is sampled by."""
    sampler = replace(c.sampler, base_solvers=c.release.base_solvers, base_steps=c.release.base_steps)
    return [replace(c, seed=c.seed + i, sampler=sampler) for i in range(c.release.noise_seeds)]
