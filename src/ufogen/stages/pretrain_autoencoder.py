"""Train the base's autoencoder on images rendered as it goes."""

from __future__ import annotations

import json

import numpy as np
import torch
from diffusers import AutoencoderKL

from ufogen import config
from ufogen.base.autoencoder import AutoencoderTask, reconstruction_error, set_scaling_factor
from ufogen.base.models import build_autoencoder
from ufogen.data.nouns import Nouns
from ufogen.randomness import numpy_generator
from ufogen.stages.common import ARTIFACTS, publish, run
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.loop import fit, make_accelerator


def main(c: config.Config) -> None:
    """Train the autoencoder and write artifacts/pretrain/vae."""
    torch.manual_seed(c.seed)
    train(c, build_autoencoder(c.pretrain.autoencoder), refine=False, name="vae", label="autoencoder")


def train(c: config.Config, model: AutoencoderKL, refine: bool, name: str, label: str) -> None:
    """Train the autoencoder from scratch or further, and write artifacts/pretrain/NAME."""
    settings, nouns = c.pretrain.autoencoder, Nouns.load(c.data.node_modules)
    accelerator = make_accelerator(c.device, settings.precision)

    def images(step: int) -> np.ndarray:
        rng = numpy_generator(c.seed, f"{label} images", step)
        return nouns.render(nouns.sample(settings.batch_size, rng))

    task = AutoencoderTask(model, settings, refine)
    run_id, folder = fingerprint(c.seed, config.to_dict(settings)), ARTIFACTS / "checkpoints" / name
    fit(
        task, images, accelerator, updates=task.updates, seed=c.seed, folder=folder, run=run_id,
        checkpoint_every=1000, log_every=50, description=label,
    )  # fmt: skip
    model.eval()
    held = nouns.render(nouns.sample(4096, numpy_generator(c.seed, "autoencoder validation")))
    set_scaling_factor(model, held)
    metrics = {"scaling_factor": model.config.scaling_factor, "mse": reconstruction_error(held, model)}
    with publish(ARTIFACTS / "pretrain" / name) as out:
        model.save_pretrained(out)
        (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(metrics)
    Checkpoint(folder, accelerator, run_id).clear()


if __name__ == "__main__":
    run(main)
