"""What every stage does: read parameters, print errors as one line, publish its outputs whole; runs of studies."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import diffusers
import pandas as pd
import psutil
import torch
import transformers
from tqdm import tqdm

from ufogen import config, signals
from ufogen.errors import Stopped, UserError, refuse
from ufogen.files import ARTIFACTS, storage_failure, write_whole
from ufogen.files import RESULTS as RESULTS  # for the stages
from ufogen.files import publish as publish
from ufogen.files import sha256 as sha256
from ufogen.precision import resolve_precision, resolved


def run(stage: Callable[[config.Config], None]) -> None:
    """Run a stage's function from the command line: `python -m ufogen.pipelines.CHAIN.NAME [--params FILE] [key=value ...]`."""
    with signals.raised(signals.AGAIN):
        try:
            _run(stage)
        except Stopped as stop:
            signals.leave(stop)


def _run(stage: Callable[[config.Config], None]) -> None:
    parser = argparse.ArgumentParser(description=stage.__doc__)
    parser.add_argument("--params", default="params.yaml", help="parameter file (default: params.yaml)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="parameters that differ from the file")
    arguments = parser.parse_args()
    _quiet()
    try:
        refuse_link(ARTIFACTS)
        settings = read(arguments.params, arguments.overrides)
        torch.set_num_threads(settings.threads)
        stage(settings)
    except UserError as error:
        refuse(error)
    except Exception as error:
        failure = storage_failure(error, unnamed=str(ARTIFACTS))
        if failure is None:
            raise
        reason = ": ".join(map(str, filter(None, failure)))
        reason = " ".join(reason.split())
        sys.exit(f"error: cannot write an output: {reason}; make room or choose another disk, then run the same command")


def run_side_by_side(commands: dict[str, Sequence[str]], processes: int) -> None:
    """Run stages, each a module and its overrides under the name that an error calls it, some at a time, one thread each.

    Raises `UserError` with the last line of one that failed, after which none is begun. A stop is passed on to those that run.
    """
    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(_work, name, command) for name, command in commands.items()]
        try:
            for future in tqdm(as_completed(futures), total=len(futures), desc="arms"):
                future.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, Stopped):
                _signal_children(error.number)
            raise


def _work(name: str, command: Sequence[str]) -> None:
    command = [sys.executable, "-m", *command, "threads=1"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{name} failed: {last}")


def _signal_children(number: int) -> None:
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)


def read(params: str, overrides: list[str]) -> config.Config:
    """The parameters, with every precision `auto` resolved for this machine, so that runs' identities and cards name it."""
    given = config.load(params, overrides)
    settings = resolved(given, given.device)
    if settings is not given and os.environ.get("RANK", "0") == "0":
        print(f"precision auto: {resolve_precision('auto', given.device)}", flush=True)
    return settings


def refuse_link(folder: Path) -> None:
    """Raise `UserError` where DVC runs the stage and `folder` is a link: it would refuse the outputs once they are made."""
    if "DVC_STAGE" in os.environ and folder.is_symlink():
        raise UserError(
            f"{folder} is a link, through which DVC takes no outputs; allowed: a folder, whose contents `dvc cache dir FOLDER` "
            "and `dvc config cache.type symlink` put on another disk"
        )


def require_space(folder: Path, needed: int) -> None:
    """Raise `UserError` where the disk cannot take `needed` bytes: a memory-mapped file would kill the process instead."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"{folder.parent} has {free >> 20} MiB free, {needed >> 20} MiB needed: make room or use another disk")


def write_results(folder: Path, files: dict[str, str]) -> None:
    """Write text files into a folder under version control, each one whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_whole(folder / name, text.encode())


def table(rows: Iterable[dict], columns: Sequence[str] | None = None, digits: int = 6) -> str:
    """A table as CSV with a heading, numbers to `digits` digits; what a row lacks stays empty, what has no column goes."""
    frame = pd.DataFrame(list(rows), columns=None if columns is None else list(columns))
    return frame.to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n")


def _quiet() -> None:
    """No bars for loading a few megabytes; those of our own work stay."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # memory-mapped, and only read
