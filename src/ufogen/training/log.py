"""Curves of a run: CSV files with a line an update, which a resumed run goes on with. `dvc plots show` draws them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from torch import Tensor

from ufogen.errors import UserError
from ufogen.files import write_whole
from ufogen.training.optimizers import SKIPPED

IN_A_ROW = 25  # updates whose steps may be left out; the scale of fp16 needs some of them until it has found itself


class Means:
    """The means of a training's scalars since the last logging. An update whose step was left out counts in `skipped` alone.

    `state`: what a checkpoint kept of them. Raises `UserError` from `add` and `take` where a training has diverged.
    """

    def __init__(self, state: dict, updates: int):
        self.totals: dict[str, tuple[Tensor | float, int]] = {n: tuple(each) for n, each in state.get("totals", {}).items()}
        self.left_out, self.in_a_row, self.most = state.get(SKIPPED, 0), 0, min(IN_A_ROW, updates)

    def add(self, scalars: dict[str, Tensor], step: int) -> None:
        if scalars.pop(SKIPPED, None) is None:
            self.in_a_row = 0
            for name, value in scalars.items():
                total, count = self.totals.get(name, (0.0, 0))
                self.totals[name] = (total + value.detach().float(), count + 1)
            return
        self.left_out, self.in_a_row = self.left_out + 1, self.in_a_row + 1
        if self.in_a_row == self.most:
            found = {name: float(value) for name, value in scalars.items()} | {"gradients": math.nan}
            _check_finite(found, step, f" in {self.in_a_row} updates in a row, which were left out")

    def take(self, step: int) -> dict[str, float]:
        """The means, which then start anew."""
        means = {name: float(total) / count for name, (total, count) in self.totals.items()}
        means |= {SKIPPED: self.left_out} if self.left_out else {}
        self.totals, self.left_out = {}, 0
        _check_finite(means, step)
        return means

    def state(self) -> dict:
        return {"totals": {name: [float(total), count] for name, (total, count) in self.totals.items()}, SKIPPED: self.left_out}


class Table:
    """A CSV file with a line for each update that is measured; a resumed run reads it and replaces what it repeats."""

    def __init__(self, path: Path, resume: bool):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict] = pd.read_csv(path).to_dict("records") if resume and path.is_file() else []

    def before(self, step: int) -> list[dict]:
        """The lines of earlier updates."""
        return [row for row in self.rows if row["update"] < step]

    def add(self, step: int, values: dict[str, float]) -> None:
        """Put the line of update `step` behind those of earlier ones and write the file."""
        self.rows = [*self.before(step), {"update": step} | {name: float(f"{value:.6g}") for name, value in values.items()}]
        text = pd.DataFrame(self.rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_whole(self.path, text.encode())


class CurveLog:
    """The training curves; `constants`, as a loss at equilibrium, stand beside them."""

    def __init__(self, folder: Path, constants: dict[str, float], resume: bool):
        self.table, self.constants = Table(folder / "curves.csv", resume), constants

    def __call__(self, step: int, means: dict[str, float]) -> None:
        self.table.add(step, dict(sorted((means | self.constants).items())))


def _check_finite(means: dict[str, float], step: int, when: str = "") -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"training diverged at update {step}: {', '.join(broken)} not finite{when}; "
            "lower the learning rates or raise r1_weight"
        )
