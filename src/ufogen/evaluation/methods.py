"""The rows of the comparison."""

from __future__ import annotations

from dataclasses import dataclass

from ufogen import config


@dataclass(frozen=True)
class Method:
    """A row of the comparison."""

    method: str  # ufogen or base
    sampler: str
    steps: int
    guidance: float

    @property
    def name(self) -> str:
        return f"{self.method}-{self.sampler}-{self.steps}"


def methods(c: config.Config) -> list[Method]:
    """UFOGen without guidance, the base with it."""
    s = c.sampler
    rows = [Method("ufogen", "renoise", steps, 0.0) for steps in s.ufogen_steps]
    return rows + [Method("base", solver, steps, s.guidance) for solver in s.base_solvers for steps in s.base_steps]
