"""Several processes for one test, as a launcher would start them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import torch
from torch.multiprocessing import start_processes


def launch(function: Callable[..., None], *args: object, processes: int = 2) -> None:
    """Run `function(*args)`, of a module, in `processes` new processes on the CPU that know of each other.

    Not accelerate's `debug_launcher`: it forks, and a fork of a process that has used torch's threads may crash.
    """
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_enter, (processes, f"{folder}/store", function, args), processes, start_method="spawn")


def _enter(rank: int, processes: int, meeting: str, function: Callable[..., None], args: tuple) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes))
    os.environ.update(ACCELERATE_USE_CPU="yes", ACCELERATE_MIXED_PRECISION="no", OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(meeting, processes)
    torch.distributed.init_process_group("gloo", rank=rank, store=store, world_size=processes)
    function(*args)
