"""Gather the trained base's weights in half precision with their hashes, as they are released in models/."""

from __future__ import annotations

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ufogen import config
from ufogen.base.loading import load_part
from ufogen.base.models import make_scheduler
from ufogen.base.text import write_prompt_tokens
from ufogen.files import record_hashes
from ufogen.pipelines.stage import ARTIFACTS, publish, run


def main(c: config.Config) -> None:
    """Write artifacts/pretrain/base: the trained vae and unet as float16 safetensors, the scheduler, metrics, hashes."""
    source, recipe = ARTIFACTS / "pretrain", c.pretrain
    parts = (
        ("vae", AutoencoderKL, source / "decoder"),
        ("unet", UNet2DConditionModel, source / "unet" / f"round-{len(recipe.denoiser.rounds) - 1}"),
    )
    with publish(source / "base") as out:
        metrics = {}
        for name, kind, folder in parts:
            load_part(kind, folder, f"trained {name}", torch.float16).save_pretrained(out / name)
            metrics[name] = json.loads((folder / "metrics.json").read_text())
        make_scheduler(recipe.denoiser.rounds[-1].prediction_type).save_pretrained(out / "scheduler")
        write_prompt_tokens(out, recipe.denoiser.max_length)
        record_hashes(out)
        (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
