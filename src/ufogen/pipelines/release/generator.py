"""Put the trained one-step generator into models/, in half precision with its hash, as it is released."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from ufogen import config
from ufogen.base.loading import load_part
from ufogen.files import DISCRIMINATOR, record_hashes
from ufogen.pipelines.release.paths import TRAIN
from ufogen.pipelines.stage import RESULTS, run

FOLDER = Path("models/nouns-ufogen")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def main(c: config.Config) -> None:
    """Write the U-Net, the scheduler that makes stock diffusers sample it, its rows of the results and its hash; and the
    discriminator, which only a training that goes on needs."""
    unet = load_part(UNet2DConditionModel, TRAIN / "unet", "the trained generator", torch.float16)
    unet.save_pretrained(FOLDER / "unet")
    shutil.copytree(TRAIN / "scheduler", FOLDER / "scheduler", dirs_exist_ok=True)
    rows = json.loads((RESULTS / "release.json").read_text())["rows"]
    mine = [row for row in rows if row["method"] == "ufogen" and row["named"] == "all"]
    (FOLDER / "metrics.json").write_text(json.dumps(mine, indent=1) + "\n")
    record_hashes(FOLDER, WEIGHTS)
    weights = {name: value.half() for name, value in load_file(TRAIN / DISCRIMINATOR).items()}
    target = FOLDER / DISCRIMINATOR
    target.parent.mkdir(exist_ok=True)
    save_file(weights, target)
    record_hashes(target.parent, target.name)


if __name__ == "__main__":
    run(main)
