"""SIGTERM and Ctrl-C end a stage with one line: where it is, or at a moment that it chooses. Only the standard library."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from ufogen.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = "stopped; run the same command again"


@contextlib.contextmanager
def raised(message: str) -> Iterator[None]:
    """Within it a signal raises `Stopped` with `message` where the program is; those that follow do nothing."""

    def handle(number: int, frame: FrameType | None) -> None:
        _ignore()
        raise Stopped(number, message)

    with _handled(handle):
        yield


@contextlib.contextmanager
def noted() -> Iterator[list[int]]:
    """Within it signals do nothing but stand in the list. The program raises `Stopped` when it is ready.

    An exception after a signal is taken for its consequence, as where another process has left already.
    """
    came: list[int] = []
    with _handled(lambda number, frame: came.append(number)):
        try:
            yield came
        except Exception:
            if came:
                _ignore()
                raise Stopped(came[0], AGAIN) from None
            raise
        except Stopped:
            _ignore()
            raise


def leave_at_once() -> None:
    """From now on a signal ends the process with one line: for the seconds in which a stage's imports run."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: leave(Stopped(number, AGAIN)))


def leave(stop: Stopped) -> NoReturn:
    """Say why, once for all processes, and end the process, without waiting for its threads."""
    stop.with_traceback(None)  # with the frames go their progress bars, each of which ends its line
    if os.environ.get("RANK", "0") == "0":
        print(stop, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + stop.number)


@contextlib.contextmanager
def _handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Python takes signals in the main thread alone; elsewhere they stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    except Stopped:  # its message is on its way: no other signal may come between
        raise
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


def _restore(before: dict) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def _ignore() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
