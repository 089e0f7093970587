"""The methods by name. Another one is a file here of that name, its section in schema/distillation.py and its YAML file.

A method's file imports no other's, so that an arm's result outlives a new method.
"""

from __future__ import annotations

from ufogen import config
from ufogen.diffusion.schedule import Schedule
from ufogen.distillation.consistency import Consistency
from ufogen.distillation.dmd2 import DMD2
from ufogen.distillation.method import Method
from ufogen.distillation.progressive import Progressive
from ufogen.distillation.yoso import YOSO

METHODS: dict[str, type[Method]] = {"progressive": Progressive, "consistency": Consistency, "dmd2": DMD2, "yoso": YOSO}


def make_method(settings: config.Distillation, schedule: Schedule, prediction_type: str) -> Method:
    """The method that the settings are of. Raises `UserError` where they do not fit the schedule."""
    return METHODS[settings.method](schedule, settings, prediction_type)
