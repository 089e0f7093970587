"""What every stage does: read parameters, set up torch, print errors as one line, publish its outputs whole."""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import diffusers
import torch
import transformers

from ufogen import config
from ufogen.errors import UserError

ARTIFACTS = Path("artifacts")  # not in git
RESULTS = Path("paper/results")  # in git


def run(stage: Callable[[config.Config], None]) -> None:
    """Run a stage's function from the command line: `python -m ufogen.stages.NAME [--params FILE] [key=value ...]`."""
    parser = argparse.ArgumentParser(description=stage.__doc__)
    parser.add_argument("--params", default="params.yaml", help="parameter file (default: params.yaml)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="parameters that differ from the file")
    arguments = parser.parse_args()
    _quiet()
    try:
        settings = config.load(arguments.params, arguments.overrides)
        torch.set_num_threads(settings.threads)
        stage(settings)
    except UserError as error:
        sys.exit(_line(str(error)))
    except Exception as error:
        reason = _storage_failure(error)
        if reason is None:
            raise
        sys.exit(_line(f"cannot write an output: {reason}; make room or choose another disk, then run the same command"))


def _storage_failure(error: Exception) -> str | None:
    """Why nothing could be written, or None. numpy and safetensors raise without an error number, so their text counts too."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"{error.filename or ARTIFACTS}: {error.strerror}"
    full = ("No space left on device", "Not enough free space", "Disk quota exceeded")
    return next((text for text in full if text in str(error)), None)


def require_space(folder: Path, needed: int) -> None:
    """Raise `UserError` where the disk cannot take `needed` bytes: a memory-mapped file would kill the process instead."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"{folder.parent} has {free >> 20} MiB free, {needed >> 20} MiB needed: make room or use another disk")


@contextlib.contextmanager
def publish(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target` only when everything in it has been written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256(path: Path) -> str:
    """The hash of a file's bytes or, for a model's folder, of its weight files one after another."""
    digest = hashlib.sha256()
    for part in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with part.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def write_results(folder: Path, files: dict[str, str]) -> None:
    """Write text files into a folder under version control, each one whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text)
        os.replace(partial, folder / name)


def _quiet() -> None:
    """No bars for loading a few megabytes; those of our own work stay."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # memory-mapped, and only read


def _line(message: str) -> str:
    return "error: " + " ".join(message.split())
