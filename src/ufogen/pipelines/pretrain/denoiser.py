"""Train the base's denoiser, in rounds, on pairs rendered and encoded as it goes.

Several processes: `torchrun --standalone --nproc_per_node 2 -m ufogen.pipelines.pretrain.denoiser`.
"""

from __future__ import annotations

import json
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ufogen import config
from ufogen.base.autoencoder import encode_images
from ufogen.base.denoiser import Chunk, Chunks, DenoiserTask, validation_loss
from ufogen.base.models import build_denoiser, make_scheduler
from ufogen.base.text import encode_text, load_text_encoder
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import make_pairs
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.pipelines.stage import ARTIFACTS, publish, run
from ufogen.precision import DTYPES
from ufogen.randomness import torch_generator
from ufogen.training.checkpoint import Checkpoint, Rounds
from ufogen.training.loop import fit, make_accelerator


def main(c: config.Config) -> None:
    """Train on the latents of artifacts/pretrain/vae and write artifacts/pretrain/unet/round-N."""
    settings, last = c.pretrain.denoiser, len(c.pretrain.autoencoder.rounds) - 1
    for number, round_ in enumerate(settings.rounds):
        if round_.autoencoder_round > last:
            name = f"pretrain.denoiser.rounds[{number}].autoencoder_round"
            raise UserError(f"parameter {name} is {round_.autoencoder_round}; allowed: 0 ... {last}")
    torch.manual_seed(c.seed)
    model = build_denoiser(settings, c.pretrain.autoencoder.latent_channels)
    shared, autoencoder = config.to_dict(settings), config.to_dict(c.pretrain.autoencoder)
    cards = [r | {"autoencoder": autoencoder["rounds"][: r["autoencoder_round"] + 1]} for r in shared.pop("rounds")]
    rounds = Rounds(ARTIFACTS / "pretrain" / "unet", (c.seed, shared, autoencoder["channels"]), cards)
    for number in range(len(settings.rounds)):
        if rounds.done(number):
            model = UNet2DConditionModel.from_pretrained(rounds.result(number), local_files_only=True)
        else:
            train(c, model.train(), number, rounds)


def train(c: config.Config, model: UNet2DConditionModel, number: int, rounds: Rounds) -> None:
    """One round, on every process's own pairs."""
    settings, round_, nouns = c.pretrain.denoiser, c.pretrain.denoiser.rounds[number], Nouns.load(c.data.node_modules)
    accelerator = make_accelerator(c.device, settings.precision)
    device, rank, processes = accelerator.device, accelerator.process_index, accelerator.num_processes
    if round_.batch_size % processes:
        name = f"pretrain.denoiser.rounds[{number}].batch_size"
        raise UserError(f"parameter {name} is {round_.batch_size}; allowed: multiples of the {processes} processes")
    vae_folder = ARTIFACTS / "pretrain" / "vae" / f"round-{round_.autoencoder_round}"
    vae = AutoencoderKL.from_pretrained(vae_folder, local_files_only=True).to(device).eval()
    encoder, tokenizer = load_text_encoder()
    encoder.to(device, DTYPES[settings.precision])

    def encode(n: int, purpose: str, key: int = 0) -> Chunk:
        began = time.perf_counter()
        pairs = make_pairs(nouns, n, c.seed, purpose, key, threads=c.threads)
        latents = encode_images(pairs.images, vae, torch_generator(device, c.seed, purpose, key), batch_size=1024)
        states = encode_text(pairs.captions, encoder, tokenizer, batch_size=1024 if device.type == "cuda" else 64)
        if accelerator.is_main_process:
            print(f"\nencoded {n} pairs in {time.perf_counter() - began:.1f} s", flush=True)
        return Chunk(latents.half(), states.half())

    schedule = Schedule.from_scheduler(make_scheduler(round_.prediction_type))
    empty = encode_text([""], encoder, tokenizer)[0].float()
    task = DenoiserTask(model, settings, round_, schedule, empty)
    purpose = f"denoiser pairs {number}"
    chunks = Chunks(
        lambda key: encode(settings.chunk_size, purpose, key * processes + rank),
        settings, round_.batch_size // processes, c.seed, number, rank,
    )  # fmt: skip
    work, identity = ARTIFACTS / "checkpoints" / f"unet-{number}", rounds.identity(number)
    fit(
        task, chunks, accelerator, updates=round_.updates, seed=c.seed, folder=work, run=identity,
        checkpoint_every=500, log_every=50, description=f"denoiser {number}",
    )  # fmt: skip
    model = accelerator.unwrap_model(task.model)
    task.average.copy_to(model.parameters())
    model.eval()
    if accelerator.is_main_process:
        held = encode(4096, "denoiser validation")
        metrics = {"validation_loss": validation_loss(model, held, schedule, round_.prediction_type, c.seed)}
        with publish(rounds.result(number)) as out:
            model.save_pretrained(out)
            metrics["prediction_type"] = round_.prediction_type
            (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
            rounds.finish(number, out)
        print(metrics)
    accelerator.wait_for_everyone()
    Checkpoint(work, accelerator, identity).clear()


if __name__ == "__main__":
    run(main)
