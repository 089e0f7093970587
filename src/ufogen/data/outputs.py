"""What a stage reads of another's outputs: missing or damaged, it is one line that names the stage to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ufogen.errors import UserError

T = TypeVar("T")


def read_output(path: Path, stage: str, reader: Callable[[Path], T]) -> T:
    """What `reader` makes of an output of the stage. Raises `UserError` where it is missing or cannot be read."""
    try:
        return reader(path)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise UserError(f"{missing} not found: run the stage {stage} first (dvc repro {stage})") from error
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): run the stage {stage} again (dvc repro --force {stage})") from error
