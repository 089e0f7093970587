"""Checkpoints that are whole or are left out, and that only continue the run they came from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ufogen import config
from ufogen.errors import UserError
from ufogen.files import sha256

CARD = "run.json"  # of a state: its run, its files' hashes and the card's own

# What may be another when a stopped run goes on: it says when something is measured, shown or saved, how fast data comes or
# where it lies. Every other parameter of these sections decides what is learned, and a checkpoint with another one is refused.
MAY_CHANGE: dict[type, frozenset[str]] = {
    config.Trainer: frozenset({"checkpoint_every", "log_every", "sample_every", "validate_every"}),
    config.Denoiser: frozenset({"checkpoint_every", "curve_every"}),
    # of encoded shards, whose contents are known by themselves; the rest is of other sources
    config.Data: frozenset({
        "path", "tracked", "cache", "workers", "encode_batch_size", "broken", "train_size", "evaluation_size",
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
    """The newest state of a run in `folder` and the one before it, for where the newest is found damaged.

    A state is written aside and renamed, so that a stop never leaves half of one. The older one goes before a state is
    written, so that the disk never holds more than two.

    Attributes
    ----------
    notes: what was saved beside the state that has been loaded.
    """

    def __init__(self, folder: str | Path, accelerator: Accelerator, run: str):
        self.folder, self.accelerator, self.run = Path(folder), accelerator, run
        self.last: Path | None = None  # loaded or saved, so it is whole
        self.notes: dict = {}

    def save(self, step: int, notes: dict | None = None) -> None:
        """Save the state after `step` updates, and `notes`, which are plain numbers and names."""
        partial, target = self.folder / "partial", self.folder / f"step-{step:07d}"
        if self.accelerator.is_main_process:
            for older in self.folder.glob("step-*"):
                if older != self.last:
                    _remove(older)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            _write_card(partial, {"run": self.run, "step": step, "notes": notes or {}})
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
        self.last = target
        self.accelerator.wait_for_everyone()

    def exists(self) -> bool:
        """Whether there is a state of this run, whole or not. Raises `UserError` where there are those of another alone."""
        cards = {folder: card for folder in self._newest_first() if (card := _read_card(folder))}
        if cards and not any(map(self._is_mine, cards.values())):
            raise UserError(
                f"checkpoint {next(iter(cards))} is of a run with another architecture, other settings, data or number of "
                f"processes: give it the same again to continue it, or delete {self.folder} to start anew"
            )
        return bool(cards)

    def load(self) -> int:
        """Restore the newest whole state of this run and return its number of updates, or 0 where there is none.

        What is damaged is said in a line. Raises `UserError` where there are states of another run alone, which starting anew
        would delete. All processes take part, and the first one chooses.
        """
        self.exists()
        chosen = [self._choose() if self.accelerator.is_main_process else None]
        (self.last,) = broadcast_object_list(chosen)
        if self.last is None:
            return 0
        card = _read_card(self.last)
        self.accelerator.load_state(str(self.last))
        self.notes = card.get("notes", {})
        return card["step"]

    def clear(self) -> None:
        """Forget the run: its result has been written."""
        if self.accelerator.is_main_process:
            for folder in self.folder.glob("step-*"):
                _remove(folder)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _choose(self) -> Path | None:
        damaged, chosen = {}, None
        for folder in self._newest_first():
            card = _read_card(folder)
            if card is not None and not self._is_mine(card):
                continue
            if (fault := _fault(folder, card)) is None:
                chosen = folder
                break
            damaged[folder] = fault
        then = f"training goes on from {chosen.name}" if chosen else "there is no other, and training starts anew"
        for folder, fault in damaged.items():
            print(f"checkpoint {folder} is damaged ({fault}): {then}", file=sys.stderr, flush=True)
        return chosen

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)

    def _is_mine(self, card: dict) -> bool:
        return card["run"] == self.run


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


def _write_card(folder: Path, card: dict) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    card |= {"files": {path.relative_to(folder).as_posix(): sha256(path) for path in files}}
    (folder / CARD).write_text(json.dumps(card | {"card": fingerprint(card)}))


def _read_card(folder: Path) -> dict | None:
    """What a state says of itself; None where that is not to be had or not what was written."""
    try:
        card = json.loads((folder / CARD).read_text())
        if set(card) == {"run", "step"}:  # of earlier code, which took no hashes
            return card
        return card if card.pop("card") == fingerprint(card) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _fault(folder: Path, card: dict | None) -> str | None:
    """What is damaged in a state: a half-deleted one lacks its card."""
    if card is None:
        return f"{CARD} is missing or was changed"
    for name, digest in card.get("files", {}).items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256(folder / name) != digest:
            return f"{name} was changed"
    return None


def _remove(folder: Path) -> None:
    """Delete a state, its card first: what a stop leaves of it is then not taken for a state."""
    (folder / CARD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
