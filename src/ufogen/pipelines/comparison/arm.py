"""An arm of the comparison: a diffusion-GAN or a distillation, trained for its share of U-Net evaluations."""

from __future__ import annotations

import contextlib
import copy
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from ufogen import config
from ufogen.base.models import Pipeline
from ufogen.base.text import encode_nothing
from ufogen.diffusion.networks import Generator, make_networks
from ufogen.diffusion.schedule import Schedule
from ufogen.distillation.methods import METHODS, make_method
from ufogen.errors import UserError
from ufogen.pipelines.comparison.paths import ARMS
from ufogen.training.distiller import Distiller
from ufogen.training.trainer import AdversarialTrainer


@dataclass
class Arm:
    """A task, and how what it trains is sampled."""

    task: AdversarialTrainer | Distiller
    sampler: str  # as in evaluation.sampler.Method
    parameterization: str = "forward"
    timesteps: Callable[[int], list[int]] | None = None

    @contextlib.contextmanager
    def network(self, steps: int) -> Iterator[Any]:
        """The trained network that samples in as many steps, as `evaluation.sampler.Sampler` takes it."""
        if isinstance(self.task, AdversarialTrainer):
            with self.task.averaged() as generator:
                yield generator
        else:
            with self.task.averaged(steps) as student:
                yield self.task.method.denoiser(student) if self.sampler == "renoise" else student.unet


def all_arms() -> dict[str, dict]:
    return OmegaConf.to_container(OmegaConf.load(ARMS))["arms"]


def arm_settings(name: str) -> dict:
    """The arm's sections of pipelines/comparison/arms.yaml. Raises `UserError` where there is none of that name."""
    arms = all_arms()
    if name not in arms:
        raise UserError(f"arm {name!r} is not in {ARMS}; allowed: {', '.join(arms)}")
    return arms[name]


def sampler_of(settings: dict) -> str:
    """What an arm is sampled by."""
    return METHODS[settings["distillation"]["method"]].sampler if "distillation" in settings else "renoise"


def make_arm(name: str, settings: dict, base: Pipeline, guidance: float, budget: int) -> Arm:
    """The arm with as many updates as `budget`, a number of U-Net evaluations, allows.

    Raises `UserError` where it allows none. New layers are drawn from torch's generator.
    """
    trainer = config.build(config.Trainer, settings["trainer"], f"arms.{name}.trainer.")
    schedule, prediction_type = Schedule.from_scheduler(base.scheduler), base.scheduler.config.prediction_type
    if "objective" in settings:
        objective = config.build(config.Objective, settings["objective"], f"arms.{name}.objective.")
        networks = make_networks(base.unet, schedule, prediction_type, objective)

        def make(trainer: config.Trainer) -> Arm:
            task = AdversarialTrainer(*networks, schedule, objective, trainer)
            return Arm(task, sampler_of(settings), objective.parameterization)

    else:
        section = config.build_distillation(settings["distillation"], f"arms.{name}.distillation.")
        method = make_method(section, schedule, prediction_type)
        student = Generator(copy.deepcopy(base.unet).train(), schedule, prediction_type)
        teacher = Generator(base.unet, schedule, prediction_type)
        empty = encode_nothing(base).arguments()

        def make(trainer: config.Trainer) -> Arm:
            task = Distiller(method, student, teacher, empty, guidance, trainer)
            return Arm(task, method.sampler, timesteps=method.timesteps)

    count = make(trainer).task.unet_evaluations
    updates = most_updates(count, budget)
    if not updates:
        raise UserError(f"parameter comparison.unet_evaluations is {budget}; allowed for {name}: {count(1)} or greater")
    return make(replace(trainer, updates=updates))


def most_updates(count: Callable[[int], int], budget: int) -> int:
    """The most updates whose evaluations, `count` of them, are within the budget; more updates are no fewer evaluations."""
    return bisect_right(range(budget + 1), budget, key=count) - 1
