"""Put the base model together as an ordinary Stable Diffusion folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from ufogen import config
from ufogen.base.loading import load_checkpoint
from ufogen.base.models import assemble
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
        pipeline = assemble(
            _load(AutoencoderKL, folder / "vae"),
            _load(UNet2DConditionModel, folder / "unet"),
            DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
        )
    with publish(ARTIFACTS / "base") as out:
        pipeline.save_pretrained(out)
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


def _load(kind: type, folder: Path) -> torch.nn.Module:
    try:
        return kind.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"base weights in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error


if __name__ == "__main__":
    run(main)
