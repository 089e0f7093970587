"""Train the base's autoencoder in rounds, on images rendered as it goes or on a folder's."""

from __future__ import annotations

import json

import numpy as np
import torch
from diffusers import AutoencoderKL

from ufogen import config
from ufogen.base.autoencoder import AutoencoderTask, reconstruction_error, set_scaling_factor
from ufogen.base.loading import load_part
from ufogen.base.models import build_autoencoder
from ufogen.data.sources import open_source
from ufogen.pipelines.stage import ARTIFACTS, publish, run
from ufogen.training.checkpoint import Checkpoint, Rounds
from ufogen.training.loop import fit, make_accelerator


def main(c: config.Config) -> None:
    """Write artifacts/pretrain/vae/round-N."""
    settings, source = c.pretrain.autoencoder, open_source(c)
    torch.manual_seed(c.seed)
    model = build_autoencoder(settings, source.side)
    parts = (c.seed, settings.channels, settings.latent_channels, settings.batch_size, settings.warmup, settings.precision)
    parts += (settings.ema_decay, *source.identity)
    rounds = Rounds(ARTIFACTS / "pretrain" / "vae", parts, list(map(config.to_dict, settings.rounds)))
    for number, round_ in enumerate(settings.rounds):
        if rounds.done(number):
            model = load_part(AutoencoderKL, rounds.result(number), f"autoencoder of round {number}")
            continue
        accelerator = make_accelerator(c.device, settings.precision)

        def images(step: int, number: int = number) -> np.ndarray:
            return source.images(settings.batch_size, f"autoencoder images {number}", step)

        work = ARTIFACTS / "checkpoints" / f"vae-{number}"
        task = AutoencoderTask(model.train(), settings, round_)
        fit(
            task, images, accelerator, updates=round_.updates, seed=c.seed, folder=work, run=rounds.identity(number),
            checkpoint_every=1000, log_every=50, description=f"autoencoder {number}",
        )  # fmt: skip
        model = accelerator.unwrap_model(task.model).eval()
        task.ema.copy_to(model.parameters())
        held = source.held_images(c.pretrain.validation_size, "autoencoder validation")
        set_scaling_factor(model, held)
        metrics = {"scaling_factor": model.config.scaling_factor, "mse": reconstruction_error(held, model)}
        with publish(rounds.result(number)) as out:
            model.save_pretrained(out)
            (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
            rounds.finish(number, out)
        print(metrics)
        Checkpoint(work, accelerator, rounds.identity(number)).clear()


if __name__ == "__main__":
    run(main)
