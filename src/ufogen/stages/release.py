"""Gather the trained base's weights in half precision with their hashes, as they are released in models/."""

from __future__ import annotations

import hashlib
import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ufogen import config
from ufogen.stages.common import ARTIFACTS, publish, run
from ufogen.stages.initialize import HASHES


def main(c: config.Config) -> None:
    """Write artifacts/pretrain/base: vae and unet as float16 safetensors, metrics and SHA-256 of every weight file."""
    source = ARTIFACTS / "pretrain"
    parts = (("vae", AutoencoderKL, "vae_refined"), ("unet", UNet2DConditionModel, "unet_refined"))
    with publish(source / "base") as out:
        metrics = {}
        for name, kind, folder in parts:
            kind.from_pretrained(source / folder, local_files_only=True, torch_dtype=torch.float16).save_pretrained(out / name)
            metrics[name] = json.loads((source / folder / "metrics.json").read_text())
        hashes = {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.glob("*/*.safetensors"))
        }
        (out / HASHES).write_text(json.dumps(hashes, indent=1) + "\n")
        (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
