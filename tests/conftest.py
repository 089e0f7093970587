"""Settings of every test run; the environment is set before torch or a hub library is imported."""

import os
from collections import Counter
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1",  # spinning OpenMP threads are many times slower when another process is busy
    HF_HUB_OFFLINE="1",  # a wrong path fails at once instead of asking a hub
    TOKENIZERS_PARALLELISM="false",
    DVC_NO_ANALYTICS="1",
    MPLBACKEND="Agg",
)

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("ufogen", deadline=None, derandomize=True)
settings.load_profile("ufogen")

CORE = ("diffusion", "evaluation", "toy", "training", "test_config.py", "test_experiments.py", "test_structure.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-core` runs: the quick tests of the method, its measures, its settings and the house."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent).parts[0]
        if place in CORE and not any(item.iter_markers("slow")) and not any(item.iter_markers("pipeline")):
            item.add_marker("core")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One last line: what was skipped, and how to get it."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.write_line("skipped: " + "; ".join(f"{count} ({reason})" for reason, count in reasons.items()))
