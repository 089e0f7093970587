"""Train the ablation study's small denoiser on the main chain's latents, and prepare what its arms are measured on."""

from __future__ import annotations

import json

import numpy as np
import torch

from ufogen import config
from ufogen.base.denoiser import DenoiserTask, validation_loss
from ufogen.base.models import build_denoiser, make_scheduler
from ufogen.base.text import encode_text
from ufogen.data.encoded import Encoded
from ufogen.evaluation import features
from ufogen.pipeline import load_base, refuse_sdxl
from ufogen.schedule import Schedule
from ufogen.stages.common import ARTIFACTS, publish, run
from ufogen.stages.prepare import read_pairs
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.loop import fit, make_accelerator


def main(c: config.Config) -> None:
    """Write artifacts/ablations/base: `unet`, `scheduler`, metrics; token states and real images' features of both prompt sets.

    Stopped, it goes on where its checkpoint was.
    """
    settings = c.ablations.base
    round_ = settings.rounds[0]
    accelerator = make_accelerator(c.device, settings.precision)
    pipeline = load_base(ARTIFACTS / "base")
    refuse_sdxl(pipeline, "the ablation study")
    torch.manual_seed(c.seed)
    model = build_denoiser(settings, pipeline.vae.config.latent_channels, pipeline.unet.config.sample_size)
    scheduler = make_scheduler(round_.prediction_type)
    schedule = Schedule.from_scheduler(scheduler)
    empty = encode_text([""], pipeline.text_encoder, pipeline.tokenizer)[0].float()
    task = DenoiserTask(model, settings, round_, schedule, empty)
    data = Encoded(ARTIFACTS / "encoded", round_.batch_size, c.seed)
    work, identity = ARTIFACTS / "checkpoints" / "ablation_base", fingerprint(c.seed, config.to_dict(settings), data.card)
    fit(
        task, data, accelerator, updates=round_.updates, seed=c.seed, folder=work, run=identity,
        checkpoint_every=500, log_every=50, description="ablation base",
    )  # fmt: skip
    task.average.copy_to(model.parameters())
    some = Encoded(ARTIFACTS / "encoded", min(1024, len(data)), c.seed)(0)
    metrics = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_loss": validation_loss(model.eval(), some, schedule, round_.prediction_type, c.seed),
    }
    with publish(ARTIFACTS / "ablations" / "base") as out:
        model.save_pretrained(out / "unet")
        scheduler.save_pretrained(out / "scheduler")
        (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
        for prompts, real in (("validation", "validation_floor"), ("evaluation", "evaluation")):
            captions = read_pairs(ARTIFACTS / "data" / prompts).captions[: c.ablations.evaluation_size]
            images = np.array(read_pairs(ARTIFACTS / "data" / real).images)
            states = encode_text(captions, pipeline.text_encoder, pipeline.tokenizer).cpu().numpy()
            np.savez(out / prompts, states=states, features=features.extract(images, device=accelerator.device).cpu().numpy())
    print(metrics)
    Checkpoint(work, accelerator, identity).clear()


if __name__ == "__main__":
    run(main)
