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
from dvclive import Live

from ufogen import config
from ufogen.base.autoencoder import decode_latents
from ufogen.base.text import encode_text
from ufogen.data.encoded import Encoded
from ufogen.figures.style import save_image_grid
from ufogen.losses import EQUILIBRIUM
from ufogen.networks import make_networks
from ufogen.objectives.diffusion_gan import DiffusionGAN
from ufogen.pipeline import load_base
from ufogen.randomness import torch_generator
from ufogen.sampling import sample_generator
from ufogen.schedule import Schedule
from ufogen.stages.common import ARTIFACTS, publish, run, sha256
from ufogen.stages.prepare import read_pairs
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.loop import fit, make_accelerator


def main(c: config.Config) -> None:
    """Write artifacts/train: the averaged generator's weights, curves and one-step samples from fixed noise."""
    accelerator = make_accelerator(c.device, c.trainer.precision)
    device = accelerator.device
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

    prompts = read_pairs(ARTIFACTS / "data" / "evaluation").captions[: c.sampler.grid_prompts * 2]
    states = encode_text(prompts, base.text_encoder, base.tokenizer).to(device)
    size = base.unet.config.sample_size
    noise = torch.randn(
        (len(prompts), base.unet.config.in_channels, size, size),
        generator=torch_generator("cpu", c.seed, "training samples"),
    ).to(device)

    def draw_samples(step: int) -> None:
        if not accelerator.is_main_process or (step % c.trainer.sample_every and step != c.trainer.updates):
            return
        parameters = list(accelerator.unwrap_model(task.generator).parameters())
        task.average.store(parameters)
        task.average.copy_to(parameters)
        latents = sample_generator(accelerator.unwrap_model(task.generator), noise, states, schedule)
        task.average.restore(parameters)
        images = decode_latents(latents, base.vae.to(device))
        save_image_grid(work / "samples" / f"{step:06d}.png", images, columns=c.sampler.grid_prompts)

    fit(
        task, data, accelerator, updates=c.trainer.updates, seed=c.seed, folder=work, run=run_id,
        checkpoint_every=c.trainer.checkpoint_every, log_every=c.trainer.log_every, on_log=log,
        on_checkpoint=draw_samples, description="ufogen",
    )  # fmt: skip
    if accelerator.is_main_process:
        log.close()
        task.average.copy_to(generator.parameters())
        with publish(ARTIFACTS / "train") as out:
            generator.unet.cpu().save_pretrained(out / "unet")
            shutil.copy(work / "curves.csv", out / "curves.csv")
            shutil.copytree(work / "samples", out / "samples")
            (out / "card.json").write_text(json.dumps(training_card(c, task, data), indent=2))
    resumable.clear()


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


def training_card(c: config.Config, task: DiffusionGAN, data: Encoded) -> dict:
    """What the run was: settings, sizes and the number of U-Net passes, for comparison at equal compute."""
    return {
        "seed": c.seed,
        "objective": config.to_dict(c.objective),
        "trainer": config.to_dict(c.trainer),
        "pairs": len(data),
        "unet_evaluations": task.unet_evaluations(c.trainer.updates) * task.accelerator.num_processes,
        "processes": task.accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    run(main)
