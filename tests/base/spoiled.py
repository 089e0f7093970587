"""Base folders to spoil, and the line that refuses them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.settings import make_base
from ufogen.base.checkpoints import load_checkpoint
from ufogen.errors import UserError


def linked_copy(folder: Path, to: Path) -> Path:
    """A copy to spoil; the weights stay links."""
    return Path(shutil.copytree(folder, to, copy_function=os.link))


def change(path: Path, **values) -> None:
    """Set values in a JSON file of such a copy."""
    content = json.loads(path.read_text()) | values
    path.unlink()  # what it is linked to stays
    path.write_text(json.dumps(content))


def refused(message: str, source: str, path: str, **base) -> None:
    """The base of these settings is refused by this message."""
    with pytest.raises(UserError, match=message):
        load_checkpoint(make_base(source, path, **base))
