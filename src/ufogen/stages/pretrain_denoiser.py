"""Train the base's denoiser on pairs rendered and encoded as it goes."""

from __future__ import annotations

import json
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from ufogen import config
from ufogen.base.autoencoder import encode_images
from ufogen.base.denoiser import Chunk, Chunks, DenoiserTask, validation_loss
from ufogen.base.models import SCHEDULE, build_denoiser
from ufogen.base.text import encode_text, load_text_encoder
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import make_pairs
from ufogen.randomness import torch_generator
from ufogen.schedule import Schedule
from ufogen.stages.common import ARTIFACTS, publish, run
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.loop import fit, make_accelerator


def main(c: config.Config) -> None:
    """Train the denoiser on artifacts/pretrain/vae_refined's latents and write artifacts/pretrain/unet."""
    torch.manual_seed(c.seed)
    model = build_denoiser(c.pretrain.denoiser, c.pretrain.autoencoder.latent_channels)
    train(c, model, refine=False, name="unet", label="denoiser")


def train(c: config.Config, model: UNet2DConditionModel, refine: bool, name: str, label: str) -> None:
    """Train the denoiser from scratch or further, and write artifacts/pretrain/NAME."""
    settings, nouns = c.pretrain.denoiser, Nouns.load(c.data.node_modules)
    accelerator = make_accelerator(c.device, settings.precision)
    device = accelerator.device
    vae = AutoencoderKL.from_pretrained(ARTIFACTS / "pretrain" / "vae_refined", local_files_only=True).to(device).eval()
    encoder, tokenizer = load_text_encoder()
    encoder.to(device, torch.float16 if device.type == "cuda" else torch.float32)

    def encode(n: int, purpose: str, number: int = 0) -> Chunk:
        began = time.perf_counter()
        pairs = make_pairs(nouns, n, c.seed, purpose, number, threads=c.threads)
        latents = encode_images(pairs.images, vae, torch_generator(device, c.seed, purpose, number), batch_size=1024)
        states = encode_text(pairs.captions, encoder, tokenizer, batch_size=1024 if device.type == "cuda" else 64)
        print(f"\nencoded {n} pairs in {time.perf_counter() - began:.1f} s", flush=True)
        return Chunk(latents.half(), states.half())

    schedule = Schedule.from_scheduler(DDIMScheduler(**SCHEDULE))
    empty = encode_text([""], encoder, tokenizer)[0].float()
    task = DenoiserTask(model, settings, schedule, empty, refine)
    chunks = Chunks(lambda number: encode(settings.chunk_size, f"{label} pairs", number), settings, c.seed)
    run_id, folder = fingerprint(c.seed, config.to_dict(settings)), ARTIFACTS / "checkpoints" / name
    fit(
        task, chunks, accelerator, updates=task.updates, seed=c.seed, folder=folder, run=run_id,
        checkpoint_every=1000, log_every=50, description=label,
    )  # fmt: skip
    task.average.copy_to(model.parameters())
    model.eval()
    metrics = {"validation_loss": validation_loss(model, encode(4096, "denoiser validation"), schedule, c.seed)}
    with publish(ARTIFACTS / "pretrain" / name) as out:
        model.save_pretrained(out)
        (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(metrics)
    Checkpoint(folder, accelerator, run_id).clear()


if __name__ == "__main__":
    run(main)
