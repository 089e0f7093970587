"""Where the release's stages leave what they make, and the settings that differ from the main chain's."""

from __future__ import annotations

from dataclasses import replace

from ufogen import config
from ufogen.files import ARTIFACTS

ENCODED, TRAIN, SAMPLES = (ARTIFACTS / "release" / name for name in ("encoded", "train", "samples"))


def released(c: config.Config) -> config.Config:
    """The main chain's settings with the release's length and an average to suit."""
    r = c.release
    every = {"checkpoint_every": r.checkpoint_every, "sample_every": r.validate_every, "validate_every": r.validate_every}
    return replace(c, trainer=replace(c.trainer, updates=r.updates, ema_decay=r.ema_decay, **every))


def seeds(c: config.Config) -> list[config.Config]:
    """The settings with each of the seeds that noise is drawn with."""
    return [replace(c, seed=c.seed + i) for i in range(c.release.noise_seeds)]
