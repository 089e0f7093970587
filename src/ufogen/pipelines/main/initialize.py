"""Put the base model together as an ordinary Stable Diffusion folder."""

from __future__ import annotations

from pathlib import Path

from ufogen import config
from ufogen.base.checkpoints import load_checkpoint
from ufogen.base.loading import save_pipeline
from ufogen.base.models import load_small
from ufogen.errors import UserError
from ufogen.files import HASHES, altered
from ufogen.pipelines.stage import ARTIFACTS, publish, run


def main(c: config.Config) -> None:
    """Write artifacts/base from the released weights, from weights trained here, or from a Stable Diffusion checkpoint."""
    folder = Path(c.base.path)
    if c.base.source not in ("released", "pretrained"):
        pipeline = load_checkpoint(c.base)
    else:
        if c.base.source == "released":
            check_hashes(folder)
        pipeline = load_small(folder, folder, f"base.path {folder}")
    with publish(ARTIFACTS / "base") as out:
        save_pipeline(pipeline, out)
    print(f"base: {c.base.source} from {c.base.path}")


def check_hashes(folder: Path) -> None:
    """Compare the weights with the hashes released beside them. Raises `UserError` where they differ."""
    try:
        (folder / HASHES).stat()  # without a record nothing counts as altered
        changed = altered(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"released base in {folder} has no readable {HASHES}: run `git checkout -- {folder}`") from error
    if changed:
        raise UserError(f"released weights {changed[0]} differ from their recorded hash: run `git checkout -- {folder}`")


if __name__ == "__main__":
    run(main)
