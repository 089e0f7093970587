"""Checkpoints that are either whole or absent, and that only continue the run they came from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from accelerate import Accelerator

from ufogen import config
from ufogen.errors import UserError

# What may be another when a stopped run goes on: it says when something is measured, shown or saved, how fast data comes or
# where it lies. Every other parameter of these sections decides what is learned, and a checkpoint with another one is refused.
MAY_CHANGE: dict[type, frozenset[str]] = {
    config.Trainer: frozenset({"checkpoint_every", "log_every", "sample_every", "validate_every"}),
    config.Denoiser: frozenset({"checkpoint_every", "curve_every"}),
    # of encoded shards, whose contents are known by themselves; the rest is of other sources
    config.Data: frozenset({
        "path", "tracked", "cache", "workers", "encode_batch_size", "broken", "captions", "train_size", "evaluation_size",
        "node_modules", "split",
    }),
}  # fmt: skip


def deciding(section: object) -> dict:
    """What of a section decides the result of a run, for its `fingerprint`."""
    return {key: value for key, value in config.to_dict(section).items() if key not in MAY_CHANGE[type(section)]}


def fingerprint(*parts: object) -> str:
    """A short hash of everything that decides the run's result. A checkpoint with another one is refused."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Checkpoint:
    """The newest state of a run in `folder`, written aside and renamed, so that a stop never leaves half of one."""

    def __init__(self, folder: str | Path, accelerator: Accelerator, run: str):
        self.folder, self.accelerator, self.run = Path(folder), accelerator, run

    def save(self, step: int) -> None:
        """Save the state after `step` updates and drop the older one."""
        partial, target = self.folder / "partial", self.folder / f"step-{step:07d}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (partial / "run.json").write_text(json.dumps({"run": self.run, "step": step}))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
            for older in self.folder.glob("step-*"):
                if older != target:
                    _remove(older)
        self.accelerator.wait_for_everyone()

    def exists(self) -> bool:
        """Whether there is a state of this run to continue. Raises `UserError` where there is one of another run."""
        return self._newest() is not None

    def load(self) -> int:
        """Restore the newest state of this run and return its number of updates, or 0 where there is none.

        Raises `UserError` where there is a state of another run, which starting anew would delete.
        """
        folder = self._newest()
        if folder is None:
            return 0
        self.accelerator.load_state(str(folder))
        return int(folder.name.removeprefix("step-"))

    def _newest(self) -> Path | None:
        cards = sorted(self.folder.glob("step-*/run.json"), reverse=True)  # a half-deleted folder may lack its card
        for card in cards:
            if json.loads(card.read_text())["run"] == self.run:
                return card.parent
        if cards:
            raise UserError(
                f"checkpoint {cards[0].parent} is of a run with another architecture, other settings, data or number of "
                f"processes: give it the same again to continue it, or delete {self.folder} to start anew"
            )
        return None

    def clear(self) -> None:
        """Forget the run: its result has been written."""
        if self.accelerator.is_main_process:
            for folder in self.folder.glob("step-*"):
                _remove(folder)
            shutil.rmtree(self.folder, ignore_errors=True)


class Rounds:
    """Training in rounds: what each one left, and whether it is the outcome of the settings asked for.

    `folder`/round-N holds the result of round N. It counts only where the shared settings `parts` and those of all rounds
    up to N are the ones it was made with, so that a round can be appended without repeating the earlier ones.
    """

    def __init__(self, folder: str | Path, parts: object, rounds: list[dict]):
        self.folder, self.parts, self.rounds = Path(folder), parts, rounds

    def identity(self, number: int) -> str:
        return fingerprint(self.parts, self.rounds[: number + 1])

    def result(self, number: int) -> Path:
        return self.folder / f"round-{number}"

    def done(self, number: int) -> bool:
        card = self.result(number) / "run.json"
        return card.is_file() and json.loads(card.read_text())["run"] == self.identity(number)

    def finish(self, number: int, folder: Path) -> None:
        """Mark a result that is about to be published as the outcome of round `number`."""
        (folder / "run.json").write_text(json.dumps({"run": self.identity(number)}))


def _remove(folder: Path) -> None:
    """Delete a state, its card first: what a stop leaves of it is then not taken for a state."""
    (folder / "run.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
