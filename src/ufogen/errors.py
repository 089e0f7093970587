"""What ends a run with one line for the reader: an error of the input, or a signal that asks for the end."""

from __future__ import annotations

import sys
from typing import NoReturn


class UserError(Exception):
    """Bad input or a missing part. Stages and commands print its message alone, as one line, and exit with status 2."""


class Stopped(KeyboardInterrupt):
    """SIGTERM or Ctrl-C, by its number. Stages print its message alone and exit with the status that a shell expects."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


def refuse(error: UserError) -> NoReturn:
    """Say it as one line on stderr and end with the status of bad input, 2, which is that of wrong usage too."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)
