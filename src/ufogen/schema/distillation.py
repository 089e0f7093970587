"""The methods that UFOGen is compared with: a section each, told apart by `method`. Timesteps are held to a schedule later."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from ufogen.schema.kinds import SECTION, Count, Gamma, Number, Refused, Share, Whole


@dataclass(config=SECTION)
class Progressive:
    """Progressive distillation (distillation/progressive.py)."""

    method: Literal["progressive"]
    teacher_steps: Count  # of DDIM, a power of 2: halved until one is left
    gamma: Gamma  # the weight over t of the loss at x_0

    @model_validator(mode="after")
    def _can_be_halved(self) -> Progressive:
        if self.teacher_steps < 2 or self.teacher_steps & (self.teacher_steps - 1):
            raise Refused("teacher_steps", self.teacher_steps, "powers of 2, from 2")
        return self


@dataclass(config=SECTION)
class Consistency:
    """Latent consistency distillation (distillation/consistency.py)."""

    method: Literal["consistency"]
    skipping_step: Count  # k: the solver's steps go from t to t - k
    huber_c: Number  # of the pseudo-Huber loss; 0 is the absolute error
    entry_share: Share  # of draws that are pure noise at the largest timestep; 0 in the paper


@dataclass(config=SECTION)
class DMD2:
    """Distribution matching distillation (distillation/dmd2.py)."""

    method: Literal["dmd2"]
    critic_updates: Count  # of the fake score to one of G
    conditioning_timestep: Whole  # what G is told of its pure noise
    minimum_timestep: Whole  # of the noise behind which distributions are matched ...
    maximum_timestep: Whole  # ... both included
    generator_gan_weight: Number
    critic_gan_weight: Number

    @model_validator(mode="after")
    def _timesteps_are_a_range(self) -> DMD2:
        if self.maximum_timestep < self.minimum_timestep:
            raise Refused("maximum_timestep", self.maximum_timestep, f"a whole number, {self.minimum_timestep} or greater")
        return self


@dataclass(config=SECTION)
class YOSO:
    """You Only Sample Once (distillation/yoso.py)."""

    method: Literal["yoso"]
    cooperation_step: Count  # D's real is G's own prediction from t less this
    consistency_step: Count  # G's prediction is to be the same from t less this
    consistency_weight: Number
    reconstruction_weight: Number
    weight_cap: Number  # of both terms' weights over t


SECTIONS = {"progressive": Progressive, "consistency": Consistency, "dmd2": DMD2, "yoso": YOSO}
Distillation = Progressive | Consistency | DMD2 | YOSO
