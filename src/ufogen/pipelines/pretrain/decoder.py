"""Train the autoencoder's decoder on: noisy latents, and a patch discriminator against blur."""

from __future__ import annotations

import json

import numpy as np
import torch
from diffusers import AutoencoderKL

from ufogen import config
from ufogen.base.autoencoder import reconstruction_error
from ufogen.base.decoder import DecoderTask
from ufogen.base.loading import load_part
from ufogen.data.sources import open_source
from ufogen.pipelines.stage import ARTIFACTS, publish, run
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.loop import fit, make_accelerator


def main(c: config.Config) -> None:
    """Write artifacts/pretrain/decoder: the autoencoder of the denoiser's last round with its decoder trained on."""
    settings, data = c.pretrain.decoder, open_source(c)
    torch.manual_seed(c.seed)
    number = c.pretrain.denoiser.rounds[-1].autoencoder_round
    source = ARTIFACTS / "pretrain" / "vae" / f"round-{number}"
    model = load_part(AutoencoderKL, source, "autoencoder of the decoder")
    task, accelerator = DecoderTask(model, settings), make_accelerator(c.device, "no")

    def images(step: int) -> np.ndarray:
        return data.images(settings.batch_size, "decoder images", step)

    work = ARTIFACTS / "checkpoints" / "decoder"
    identity = fingerprint(c.seed, config.to_dict(settings), json.loads((source / "run.json").read_text()))
    fit(
        task, images, accelerator, updates=settings.updates, seed=c.seed, folder=work, run=identity,
        checkpoint_every=500, log_every=50, description="decoder",
    )  # fmt: skip
    task.ema.copy_to(task.trained)
    model = accelerator.unwrap_model(task.model).eval()
    held = data.held_images(c.pretrain.validation_size, "autoencoder validation")
    metrics = {"scaling_factor": model.config.scaling_factor, "mse": reconstruction_error(held, model)}
    with publish(ARTIFACTS / "pretrain" / "decoder") as out:
        model.save_pretrained(out)
        (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(metrics)
    Checkpoint(work, accelerator, identity).clear()


if __name__ == "__main__":
    run(main)
