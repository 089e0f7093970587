"""Where outputs go, whole or not at all; the hash of a model's weights; why a disk took nothing. Only the standard library."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

ARTIFACTS = Path("artifacts")  # not in git
RESULTS = Path("paper/results")  # in git
RUNS = Path("paper/runs")  # in git: each run of a study, so that a study can be gone on with on another machine
WEIGHTS = (".safetensors", ".bin")
DISCRIMINATOR = Path("discriminator/discriminator.safetensors")  # beside a trained generator
HASHES = "sha256.json"  # {path: hash} of a released folder's weights


def write_whole(path: Path, data: bytes) -> None:
    """Write a file aside, under a name of this call's own, and rename it. Raises OSError, after which the old file stands."""
    write_together({path: data})


def write_together(files: dict[Path, bytes]) -> None:
    """Write all files aside before the first is renamed, so that a full disk leaves every old one. Raises OSError."""
    partial = {path: path.with_name(f".{path.name[:99]}-{uuid.uuid4().hex[:8]}.partial") for path in files}
    try:
        for path, data in files.items():
            partial[path].write_bytes(data)
        for path in files:
            os.replace(partial[path], path)
    except OSError:
        for path in partial.values():
            with contextlib.suppress(OSError):
                path.unlink()
        raise


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
    weights = (part for part in path.glob("[!.]*") if part.suffix in WEIGHTS)  # what macOS adds, ._NAME, is none
    for part in sorted(weights) if path.is_dir() else [path]:
        with part.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def record_hashes(folder: Path, *names: str, elsewhere: dict[str, Path] | None = None) -> None:
    """Write the record that `altered` reads: of the files or parts of these names, or else all safetensors of the folder's
    parts; `elsewhere`: names of what lies outside."""
    names = names or tuple(str(path.relative_to(folder)) for path in sorted(folder.glob("*/*.safetensors")))
    hashes = {name: sha256(path) for name, path in ({name: folder / name for name in names} | (elsewhere or {})).items()}
    (folder / HASHES).write_text(json.dumps(hashes, indent=1) + "\n")


def altered(folder: Path, part: str = "") -> list[Path]:
    """Files of a model, or of one of its parts, that are missing or whose hash is not the one recorded in the folder.

    A folder without a record has none. Raises ValueError where the record cannot be read.
    """
    if not (folder / HASHES).is_file():
        return []
    recorded = json.loads((folder / HASHES).read_text())
    mine = {folder / name: digest for name, digest in recorded.items() if name.startswith(f"{part}/" if part else "")}
    return [path for path, digest in mine.items() if not path.is_file() or sha256(path) != digest]


def storage_failure(error: Exception, unnamed: str) -> tuple[str | None, str] | None:
    """What could not be written, `unnamed` where the system does not say, and why; None for an error of another kind.

    numpy and safetensors raise without an error number, so their text counts too, which names nothing.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return error.filename or unnamed, error.strerror
    full = ("No space left on device", "Not enough free space", "Disk quota exceeded")
    return next(((None, text) for text in full if text in str(error)), None)
