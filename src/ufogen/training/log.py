"""Curves of a run: CSV files with a line an update, which a resumed run goes on with, and DVCLive beside them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from dvclive import Live

from ufogen.files import write_whole


class Table:
    """A CSV file with a line for each update that is measured; a resumed run reads it and replaces what it repeats."""

    def __init__(self, path: Path, resume: bool):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict] = []
        if resume and path.is_file():
            with path.open() as file:
                self.rows = list(csv.DictReader(file))

    def before(self, step: int) -> list[dict]:
        """The lines of earlier updates."""
        return [row for row in self.rows if int(row["update"]) < step]

    def add(self, step: int, values: dict[str, float]) -> None:
        """Put the line of update `step` behind those of earlier ones and write the file."""
        self.rows = [*self.before(step), {"update": step} | {name: f"{value:.6g}" for name, value in values.items()}]
        names = dict.fromkeys(name for row in self.rows for name in row)  # in the order in which they came up
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(names), restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue().encode())


class CurveLog:
    """Curves through DVCLive and as one CSV; `constants`, as a loss at equilibrium, stand beside them."""

    def __init__(self, folder: Path, constants: dict[str, float], resume: bool):
        self.table, self.constants = Table(folder / "curves.csv", resume), constants
        self.live = Live(str(folder / "live"), save_dvc_exp=False, dvcyaml=None, report=None, resume=resume)

    def __call__(self, step: int, means: dict[str, float]) -> None:
        means = dict(sorted((means | self.constants).items()))
        self.table.add(step, means)
        self.live.step = step
        for name, value in means.items():
            self.live.log_metric(name, value)

    def close(self) -> None:
        self.live.end()
