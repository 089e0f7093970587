"""Train the one-step generator from the base.

Several processes: `torchrun --standalone --nproc_per_node 2 -m ufogen.stages.train`; each takes trainer.batch_size pairs.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from dvclive import Live

from ufogen import config
from ufogen.base.autoencoder import decode_latents
from ufogen.base.text import encode_text
from ufogen.data.encoded import Encoded
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.fidelity import fidelity
from ufogen.figures.style import save_image_grid
from ufogen.losses import EQUILIBRIUM
from ufogen.networks import Generator, make_networks
from ufogen.objectives.diffusion_gan import DiffusionGAN
from ufogen.pipeline import load_base
from ufogen.randomness import torch_generator
from ufogen.sampling import sample_generator
from ufogen.schedule import Schedule
from ufogen.stages.common import ARTIFACTS, publish, run, sha256
from ufogen.stages.prepare import read_pairs
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.loop import fit, make_accelerator

METRICS = ("kid_lite0", "fd_lite0", "precision", "recall")


def main(c: config.Config) -> None:
    """Write artifacts/train: the averaged generator's weights, curves and one-step samples from fixed noise."""
    accelerator = make_accelerator(c.device, c.trainer.precision)
    base = load_base(ARTIFACTS / "base")
    schedule = Schedule.from_scheduler(base.scheduler)
    prediction_type = base.scheduler.config.prediction_type
    torch.manual_seed(c.seed)
    generator, discriminator = make_networks(base.unet, schedule, prediction_type, c.objective)
    task = DiffusionGAN(generator, discriminator, schedule, c.objective, c.trainer)
    data = Encoded(ARTIFACTS / "encoded", c.trainer.batch_size, c.seed, accelerator.process_index, accelerator.num_processes)
    work = ARTIFACTS / "checkpoints" / "train"
    run_id = fingerprint(
        c.seed, config.to_dict(c.objective), config.to_dict(c.trainer), data.card, accelerator.num_processes,
        sha256(ARTIFACTS / "base" / "unet"),
    )  # fmt: skip
    resumable = Checkpoint(work, accelerator, run_id)
    log = None
    if accelerator.is_main_process:
        log = CurveLog(work / "curves.csv", work / "live", c.objective.adversarial, resumable.exists())

    validation = Validation(c, base, schedule, work, accelerator.device) if accelerator.is_main_process else None

    def look(step: int) -> None:
        tr = c.trainer
        due = [step % every == 0 or step == tr.updates for every in (tr.sample_every, tr.validate_every)]
        if validation is None or not any(due):
            return
        parameters = list(accelerator.unwrap_model(task.generator).parameters())
        task.average.store(parameters)
        task.average.copy_to(parameters)
        if due[0]:
            validation.draw(accelerator.unwrap_model(task.generator), step)
        if due[1]:
            validation.measure(accelerator.unwrap_model(task.generator), step)
        task.average.restore(parameters)

    fit(
        task, data, accelerator, updates=c.trainer.updates, seed=c.seed, folder=work, run=run_id,
        checkpoint_every=c.trainer.checkpoint_every, log_every=c.trainer.log_every, on_log=log,
        on_checkpoint=look, description="ufogen",
    )  # fmt: skip
    if accelerator.is_main_process:
        log.close()
        with publish(ARTIFACTS / "train") as out:
            if c.trainer.keep == "best":
                shutil.copytree(work / "best", out / "unet")
            else:
                task.average.copy_to(generator.parameters())
                generator.unet.cpu().save_pretrained(out / "unet")
            for name in ("curves.csv", "validation.csv"):
                shutil.copy(work / name, out / name)
            shutil.copytree(work / "samples", out / "samples")
            kept = validation.best if c.trainer.keep == "best" else c.trainer.updates
            (out / "card.json").write_text(json.dumps(training_card(c, task, data, kept), indent=2))
    resumable.clear()


class Validation:
    """One-step samples for the validation prompts from fixed noise: pictures, KID and attributes while training goes on.

    Everything is written below `work`, so that a resumed run goes on with what it had.
    """

    def __init__(self, c: config.Config, base: StableDiffusionPipeline, schedule: Schedule, work: Path, device: torch.device):
        self.c, self.schedule, self.work, self.device = c, schedule, work, device
        self.vae = base.vae.to(device)
        n = min(c.trainer.validation_size, c.data.evaluation_size)
        pairs = read_pairs(ARTIFACTS / "data" / "validation")
        self.pairs = Pairs(pairs.images[:n], pairs.captions[:n], pairs.parts[:n], pairs.mentioned[:n])
        reference = read_pairs(ARTIFACTS / "data" / "validation_floor").images[: 2 * n]
        self.reference = features.extract(np.array(reference), device=self.device)
        self.nouns = Nouns.load(c.data.node_modules)
        self.states = encode_text(self.pairs.captions, base.text_encoder, base.tokenizer).to(self.device)
        size, channels = base.unet.config.sample_size, base.unet.config.in_channels
        rng = torch_generator("cpu", c.seed, "validation noise")
        self.noise = torch.randn((n, channels, size, size), generator=rng).to(self.device)
        self.path = work / "validation.csv"

    def images(self, generator: Generator, n: int) -> np.ndarray:
        latents = [
            sample_generator(generator, noise, states, self.schedule)
            for noise, states in zip(self.noise[:n].split(100), self.states[:n].split(100), strict=True)
        ]
        return decode_latents(torch.cat(latents), self.vae)

    def draw(self, generator: Generator, step: int) -> None:
        """The first prompts' images as samples/STEP.png."""
        columns = self.c.sampler.grid_prompts
        save_image_grid(self.work / "samples" / f"{step:06d}.png", self.images(generator, 2 * columns), columns=columns)

    def measure(self, generator: Generator, step: int) -> None:
        """Append a line to validation.csv, and keep the generator where its KID is the lowest so far."""
        images = self.images(generator, len(self.noise))
        found = fidelity(
            features.extract(images, device=self.device), self.reference, seed=self.c.seed,
            kid_subsets=50, kid_subset_size=max(len(images) // 2, 2), neighborhood=self.c.evaluation.neighborhood,
        )  # fmt: skip
        attributes = attribute_accuracy(images, self.pairs.parts, self.pairs.mentioned, self.nouns)
        rows = [row for row in self.rows() if int(row["update"]) < step]  # a resumed run repeats a few
        best = min((float(row["kid_lite0"]) for row in rows), default=float("inf"))
        row = {"update": step, "attribute_accuracy": attributes["mean"]} | {name: found[name] for name in METRICS}
        rows.append({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        if found["kid_lite0"] < best:
            with publish(self.work / "best") as out:
                generator.unet.save_pretrained(out)

    def rows(self) -> list[dict]:
        if not self.path.is_file():
            return []
        with self.path.open() as file:
            return list(csv.DictReader(file))

    @property
    def best(self) -> int:
        """The update whose generator is kept."""
        return int(min(self.rows(), key=lambda row: float(row["kid_lite0"]))["update"])


class CurveLog:
    """Curves through DVCLive and as one CSV; the equilibrium of the discriminator's loss stands beside it."""

    def __init__(self, path: Path, live: Path, adversarial: str, resume: bool):
        self.path, self.equilibrium = path, EQUILIBRIUM[adversarial]
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict] = []
        if resume and path.is_file():
            with path.open() as file:
                self.rows = list(csv.DictReader(file))
        self.live = Live(str(live), save_dvc_exp=False, dvcyaml=None, report=None, resume=resume)

    def __call__(self, step: int, means: dict[str, float]) -> None:
        means = means | {"equilibrium": self.equilibrium}
        self.rows = [row for row in self.rows if int(row["update"]) < step]  # a resumed run repeats a few
        self.rows.append({"update": step} | {name: f"{value:.6g}" for name, value in means.items()})
        names = sorted({name for row in self.rows for name in row} - {"update"})
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["update", *names], restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        self.live.step = step
        for name, value in means.items():
            self.live.log_metric(name, value)

    def close(self) -> None:
        self.live.end()


def training_card(c: config.Config, task: DiffusionGAN, data: Encoded, kept: int) -> dict:
    """What the run was: settings, sizes and the number of U-Net passes, for comparison at equal compute."""
    return {
        "seed": c.seed,
        "objective": config.to_dict(c.objective),
        "trainer": config.to_dict(c.trainer),
        "kept_update": kept,
        "pairs": len(data),
        "unet_evaluations": task.unet_evaluations(c.trainer.updates) * task.accelerator.num_processes,
        "processes": task.accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    run(main)
