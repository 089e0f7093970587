"""A training of tiny networks as a stage has it: `python -m tests.training.stoppable --params FILE`, in the folder FOLDER.

Where a file of FOLDER says so, the batch of one update does not come, as in a minute of encoding.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.training import test_parallel
from ufogen.pipelines.stage import run

UPDATES, LATE = 12, 7
FOLDER = Path(os.environ.get("FOLDER", "."))
share = test_parallel.share


def late(step: int, rank: int, processes: int):
    if step == LATE and (FOLDER / "late").is_file():
        (FOLDER / f"waiting-{rank}").touch()
        time.sleep(60)
    return share(step, rank, processes)


def main(c: object) -> None:
    test_parallel.share = late
    test_parallel.train(FOLDER, UPDATES)


if __name__ == "__main__":
    run(main)
