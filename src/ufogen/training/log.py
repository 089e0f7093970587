"""Curves of a run: CSV files with a line an update, which a resumed run goes on with. `dvc plots show` draws them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ufogen.files import write_whole


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
