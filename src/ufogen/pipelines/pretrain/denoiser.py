"""Train the base's denoiser, in rounds, on pairs rendered, or drawn from a folder, and encoded as it goes.

Several processes: `python -m ufogen.launch --standalone --nproc_per_node 2 -m ufogen.pipelines.pretrain.denoiser`.
With `pretrain.denoiser.resume` the last round goes on from a snapshot, with other images than it has seen.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ufogen import config
from ufogen.base.autoencoder import encode_images
from ufogen.base.denoiser import Chunk, Chunks, DenoiserTask, validation_loss
from ufogen.base.loading import load_part
from ufogen.base.models import build_denoiser, make_scheduler, with_attention
from ufogen.base.text import encode_text, load_text_encoder
from ufogen.data.pairs import Pairs
from ufogen.data.sources import FolderSource, NounsSource, latent_factor, open_source
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.pipelines.pretrain.progress import STATE, State, draw, load_snapshot, measure, save_snapshot
from ufogen.pipelines.stage import ARTIFACTS, publish, run
from ufogen.precision import DTYPES
from ufogen.randomness import torch_generator
from ufogen.training.checkpoint import MAY_CHANGE, Checkpoint, Rounds, deciding, fingerprint
from ufogen.training.loop import fit, make_accelerator

VAE, SNAPSHOT = ARTIFACTS / "pretrain" / "vae", ARTIFACTS / "pretrain" / "next"


def main(c: config.Config) -> None:
    """Train on the latents of artifacts/pretrain/vae and write artifacts/pretrain/unet/round-N."""
    settings, data = c.pretrain.denoiser, open_source(c)
    torch.manual_seed(c.seed)
    shared, autoencoder = deciding(settings), config.to_dict(c.pretrain.autoencoder)
    cards = [r | {"autoencoder": autoencoder["rounds"][: r["autoencoder_round"] + 1]} for r in shared.pop("rounds")]
    rounds = Rounds(ARTIFACTS / "pretrain" / "unet", (c.seed, shared, autoencoder["channels"], *data.identity), cards)
    if settings.resume:
        model, vae, state = load_snapshot(settings.resume)
        train(c, data, with_attention(model, settings).train(), vae, state, len(cards) - 1, rounds)
        return
    model = build_denoiser(settings, c.pretrain.autoencoder.latent_channels, data.side // latent_factor(c))
    for number, round_ in enumerate(settings.rounds):
        if rounds.done(number):
            model = load_part(UNet2DConditionModel, rounds.result(number), f"denoiser of round {number}")
        else:
            vae = load_part(AutoencoderKL, VAE / f"round-{round_.autoencoder_round}", "autoencoder of the denoiser")
            train(c, data, model.train(), vae, State(), number, rounds)


def train(
    c: config.Config, data: NounsSource | FolderSource, model: UNet2DConditionModel, vae: AutoencoderKL, state: State,
    number: int, rounds: Rounds,
) -> None:  # fmt: skip
    """One round, on every process's own pairs. `state`: what an earlier stretch of it left."""
    settings, round_ = c.pretrain.denoiser, c.pretrain.denoiser.rounds[number]
    accelerator = make_accelerator(c.device, settings.precision)
    rank, processes = accelerator.process_index, accelerator.num_processes
    if round_.batch_size % processes:
        name = f"pretrain.denoiser.rounds[{number}].batch_size"
        raise UserError(f"parameter {name} is {round_.batch_size}; allowed: multiples of the {processes} processes")
    source = Source(c, data, vae.to(accelerator.device).eval(), accelerator)
    schedule = Schedule.from_scheduler(make_scheduler(round_.prediction_type))
    task = DenoiserTask(model, settings, round_, schedule, source.empty)
    purpose = f"denoiser pairs {number}" + (f" after {state.images} images" if state.images else "")
    chunks = Chunks(
        lambda key: source.chunk(purpose, key * processes + rank),
        settings, round_.batch_size // processes, c.seed, number, rank,
    )  # fmt: skip
    curve = Curve(c, source, task, schedule, state, round_)
    work, identity = ARTIFACTS / "checkpoints" / f"unet-{number}", fingerprint(rounds.identity(number), state.images)
    fit(
        task, chunks, accelerator, updates=round_.updates, seed=c.seed, folder=work, run=identity,
        checkpoint_every=settings.checkpoint_every, log_every=50, on_log=curve.log, on_checkpoint=curve.point,
        description=f"denoiser {number}",
    )  # fmt: skip
    if accelerator.is_main_process:
        model = averaged(task, accelerator)
        held, _ = source.validation()
        metrics = {"validation_loss": validation_loss(model, held, schedule, round_.prediction_type, c.seed)}
        with publish(rounds.result(number)) as out:
            model.save_pretrained(out)
            metrics["prediction_type"] = round_.prediction_type
            (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
            rounds.finish(number, out)
        print(metrics)
    accelerator.wait_for_everyone()
    Checkpoint(work, accelerator, identity).clear()


class Source:
    """Pairs, encoded: latents and prompt_embeds in half precision."""

    def __init__(
        self, c: config.Config, data: NounsSource | FolderSource, vae: AutoencoderKL, accelerator: Accelerator
    ):  # fmt: skip
        self.c, self.settings, self.data, self.vae, self.accelerator = c, c.pretrain.denoiser, data, vae, accelerator
        encoder, self.tokenizer = load_text_encoder(self.settings.max_length)
        self.empty = encode_text([""], encoder, self.tokenizer)[0].float()
        self.encoder = encoder.to(accelerator.device, DTYPES[self.settings.precision])
        self.batch_size = 1024 if accelerator.device.type == "cuda" else 64  # a core's caches hold no more

    def chunk(self, purpose: str, key: int) -> Chunk:
        """`chunk_size` captions, each with `images_per_caption` images that fit it."""
        began, s = time.perf_counter(), self.settings
        pairs, latents = self.data.pairs(s.chunk_size, purpose, key), []
        for i in range(s.images_per_caption):
            images = self.data.others(pairs, purpose + " redrawn", key, i) if i else pairs.images
            latents.append(self.latents(images, purpose, key, *([i] if i else [])))
        chunk = Chunk(torch.cat(latents), self.prompt_embeds(pairs))
        if self.accelerator.is_main_process:
            print(f"\nencoded {len(chunk.latents)} images in {time.perf_counter() - began:.1f} s", flush=True)
        return chunk

    def validation(self) -> tuple[Chunk, Pairs]:
        """Held pairs, one image a caption."""
        pairs = self.data.held_pairs(self.c.pretrain.validation_size, "denoiser validation")
        return Chunk(self.latents(pairs.images, "denoiser validation", 0), self.prompt_embeds(pairs)), pairs

    def latents(self, images: np.ndarray, purpose: str, *key: int) -> Tensor:
        rng = torch_generator(self.accelerator.device, self.c.seed, purpose, *key)
        with self.accelerator.autocast():
            return encode_images(images, self.vae, rng, batch_size=self.batch_size).half()

    def prompt_embeds(self, pairs: Pairs) -> Tensor:
        return encode_text(pairs.captions, self.encoder, self.tokenizer, batch_size=self.batch_size).half()


class Curve:
    """Losses and drawn images against images seen, with a snapshot of the average at each point."""

    def __init__(
        self, c: config.Config, source: Source, task: DenoiserTask, schedule: Schedule, state: State,
        round_: config.DenoiserRound,
    ):  # fmt: skip
        self.c, self.source, self.task, self.schedule = c, source, task, schedule
        self.before, self.round, self.loss = state, round_, float("nan")
        self.every = c.pretrain.denoiser.curve_every
        settings = config.to_dict(c.pretrain.denoiser)
        self.recipe = {"seed": c.seed, "prediction_type": round_.prediction_type, "denoiser": settings}
        self._held: tuple[Chunk, Pairs] | None = None

    def log(self, step: int, means: dict[str, float]) -> None:
        self.loss = means.get("loss", float("nan"))

    def point(self, step: int) -> None:
        """Measure and write artifacts/pretrain/next, where a point is due; the other processes go on to the checkpoint."""
        accelerator, before = self.source.accelerator, self.before
        if not self.every or step == 0 or step % self.every or not accelerator.is_main_process:
            return
        began, updates = time.perf_counter(), before.updates + step
        model = averaged(self.task, accelerator)
        row = {"images": before.images + step * self.round.batch_size, "updates": updates, "training_loss": self.loss}
        row |= self.measured(model)
        state = State(row["images"], updates, [*self.earlier(updates), row], self.recipe)
        save_snapshot(SNAPSHOT, model, self.source.vae, state)
        print(f"\n{json.dumps(row)} in {time.perf_counter() - began:.1f} s", flush=True)

    def earlier(self, updates: int) -> list[dict[str, float]]:
        """The curve up to here: from this run's own last snapshot, if it was stopped and continued too."""
        path = SNAPSHOT / STATE
        last = State(**json.loads(path.read_text())) if path.is_file() else self.before
        known = last.curve if _deciding(last.recipe) == _deciding(self.recipe) else self.before.curve
        return [row for row in known if row["updates"] < updates]

    def measured(self, model: UNet2DConditionModel) -> dict[str, float]:
        """Validation loss and, of Nouns, what `pretrain.curve_size` images of the validation captions show."""
        if self._held is None:
            self._held = self.source.validation()
        (held, pairs), source, kind = self._held, self.source, self.round.prediction_type
        n = self.c.pretrain.curve_size
        loss = validation_loss(model, held, self.schedule, kind, self.c.seed)
        if source.data.nouns is None:
            return {"validation_loss": loss}
        rng = torch_generator("cpu", self.c.seed, "denoiser curve")
        half = type(model).from_config(model.config).to(DTYPES[source.settings.precision]).eval()
        half.load_state_dict(model.state_dict())
        images = draw(half, source.vae, held.prompt_embeds[:n], source.empty, kind, rng)
        few = pairs[:n]
        return {"validation_loss": loss} | measure(images, few, source.data.nouns)


def _deciding(recipe: dict) -> dict:
    """A snapshot's recipe without what may change in a run."""
    free = MAY_CHANGE[config.Denoiser]
    return recipe | {"denoiser": {key: value for key, value in recipe.get("denoiser", {}).items() if key not in free}}


def averaged(task: DenoiserTask, accelerator: Accelerator) -> UNet2DConditionModel:
    """The denoiser with the average's weights, apart from the one that is being trained."""
    model = UNet2DConditionModel.from_config(accelerator.unwrap_model(task.model).config)
    task.ema.copy_to(model.parameters())
    return model.to(accelerator.device).eval()


if __name__ == "__main__":
    run(main)
