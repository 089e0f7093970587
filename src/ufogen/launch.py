"""torchrun, whose processes alone say how they end: `python -m ufogen.launch --standalone --nproc_per_node 2 -m MODULE ...`.

A stage that fails or is stopped says so in a line, to which torchrun itself would add tracebacks of its own.
"""

from __future__ import annotations

import logging
import signal
import sys

from ufogen import signals


def main(arguments: list[str]) -> int:
    """The exit status: that of the first process that failed, or what a shell expects after a signal."""
    signals.leave_at_once()
    from torch.distributed import run  # after which torchrun passes signals on to the processes
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)
    try:
        run.main(arguments)
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: process {rank} was ended by {signal.Signals(-failure.exitcode).name}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
