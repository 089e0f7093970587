"""The toy's results on the disk: what each is known by, and what it is measured against."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ufogen.diffusion import batch, losses, objective, schedule
from ufogen.files import ARTIFACTS
from ufogen.randomness import torch_generator
from ufogen.toy import mixture, networks, train
from ufogen.toy.settings import Method, Toy

METRICS = ("modes", "box_fraction", "mode_kl", "frechet", "wasserstein_2")
# what a number depends on beside the settings, as it is when this process starts
CODE = b"".join(Path(module.__file__).read_bytes() for module in (batch, losses, objective, schedule, mixture, networks, train))


@dataclass(frozen=True)
class ArmKey:
    method: Method
    steps: int

    @property
    def file(self) -> str:
        return f"{self.method.name}-{self.steps}.json"


def keys(settings: Toy) -> list[ArmKey]:
    return [ArmKey(method, steps) for method in settings.methods for steps in settings.trained_steps]


def label(settings: Toy) -> str:
    return "toy" if settings.schedule == "cosine" else f"toy_{settings.schedule}"


def fingerprint(key: ArmKey, settings: Toy, seeds: list[int] | None = None) -> str:
    """Of the settings that this arm depends on and of the code that computes it."""
    own = asdict(settings) | {"methods": asdict(key.method), "trained_steps": key.steps}
    own |= {} if seeds is None else {"seeds": seeds}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode() + CODE).hexdigest()


def reference(settings: Toy) -> torch.Tensor:
    """The points (n, 2) to which every Wasserstein distance is taken."""
    return mixture.balanced(settings.transport_samples, torch_generator("cpu", 0, "laboratory reference"))


def samples_of(settings: Toy) -> dict[str, dict[int, dict[int, np.ndarray]]]:
    """[method][trained steps][steps]: samples (n, 2) of the first seed, for the figure. Needs finished arms."""
    records: dict[str, dict[int, dict[int, np.ndarray]]] = {}
    for key in keys(settings):
        samples = json.loads((ARTIFACTS / label(settings) / key.file).read_text())["samples"]
        arm = {int(steps): np.array(points) for steps, points in samples.items()}
        records.setdefault(key.method.name, {})[key.steps] = arm
    return records
