"""The processes' agreement on the update at which all of them stop."""

from __future__ import annotations

from concurrent.futures import Future, wait

import torch
from accelerate import Accelerator
from torch import distributed

PATIENCE = 1.0  # seconds between two looks while a batch is awaited


class Agreement:
    """Two numbers that the processes compare before each update, over the CPU, so that no GPU waits for it."""

    def __init__(self, accelerator: Accelerator):
        self.group = distributed.new_group(backend="gloo") if accelerator.num_processes > 1 else None

    def stops(self, came: list[int], batch: Future) -> int:
        """Wait until all processes have their batch or one has got a signal: 0, or the signal's number."""
        while True:
            wait([batch], timeout=PATIENCE)
            number, waiting = self._largest(came[0] if came else 0, int(not batch.done()))
            if number or not waiting:
                return number

    def _largest(self, *mine: int) -> list[int]:
        numbers = torch.tensor(mine)
        if self.group is not None:
            distributed.all_reduce(numbers, distributed.ReduceOp.MAX, self.group)
        return numbers.tolist()
