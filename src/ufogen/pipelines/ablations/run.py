"""Train and measure one arm of the ablation study: `python -m ufogen.pipelines.ablations.run ablations.arm=NAME seed=N`."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from ufogen import config
from ufogen.base.loading import load_base
from ufogen.base.text import Conditioning
from ufogen.data.encoded import Encoded
from ufogen.data.images import save_image_grid
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs, read_pairs
from ufogen.diffusion.networks import Generator, make_networks
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.evaluation.evaluator import METRICS, Evaluator
from ufogen.evaluation.noise_kept import noise_kept
from ufogen.evaluation.sampler import Method, Sampler
from ufogen.pipelines.ablations.paths import ARMS, CHAIN, RUNS, SETS
from ufogen.pipelines.stage import ARTIFACTS, publish, run, sha256
from ufogen.training.checkpoint import Checkpoint, deciding, fingerprint
from ufogen.training.log import Table
from ufogen.training.loop import fit, make_accelerator
from ufogen.training.trainer import AdversarialTrainer

BLOCK = 100  # images sampled at a time


def main(c: config.Config) -> None:
    """Write paper/runs/ablations/ARM-SEED: metrics.json, curve.csv and, of the first seed, pictures.png, a row for each number
    of steps; unless they are there already.
    """
    arm, seed, settings = c.ablations.arm, c.seed, arm_settings(c.ablations.arm)
    objective = config.build(config.Objective, settings["objective"], f"arms.{arm}.objective.")
    trainer = config.build(config.Trainer, settings["trainer"], f"arms.{arm}.trainer.")
    data = Encoded(ARTIFACTS / "encoded", trainer.batch_size, seed)
    training = fingerprint(
        seed, settings["objective"], deciding(trainer), data.card | {"data": None},
        [sha256(path) for path in (ARTIFACTS / "base" / "unet", *code())],
    )  # fmt: skip
    identity = fingerprint(training, config.to_dict(c.ablations))  # of the result, which says how it is measured too
    if finished(arm, seed) == identity:
        print(f"{arm}-{seed}: already there")
        return
    accelerator = make_accelerator(c.device, trainer.precision)
    base = load_base(ARTIFACTS / "base")
    schedule = Schedule.from_scheduler(base.scheduler).until(objective.entry_timestep)
    prediction_type = base.scheduler.config.prediction_type
    torch.manual_seed(seed)
    generator, discriminator = make_networks(base.unet, schedule, prediction_type, objective)
    task = AdversarialTrainer(generator, discriminator, schedule, objective, trainer)
    base.vae.to(accelerator.device)
    sampler = Sampler(base, accelerator.device, parameterization=objective.parameterization, entry=objective.entry_timestep)
    validation = Prompts.read(c, "validation", c.ablations.curve_size, accelerator.device)
    evaluation = Prompts.read(c, "evaluation", c.ablations.evaluation_size, accelerator.device)
    work = ARTIFACTS / "checkpoints" / "ablations" / f"{arm}-{seed}"
    began, resumed = time.process_time(), Checkpoint(work, accelerator, training).exists()
    curve = Table(work / "curve.csv", resumed)

    def measure(step: int) -> None:
        if step % c.ablations.curve_every == 0 or step == trainer.updates:
            with task.averaged() as average:
                curve.add(step, validation.measure(validation.sample(sampler, average, 1, seed)))

    fit(
        task, data, accelerator, updates=trainer.updates, seed=seed, folder=work, run=training,
        checkpoint_every=trainer.checkpoint_every, log_every=trainer.log_every, on_checkpoint=measure,
        description=f"{arm}-{seed}",
    )  # fmt: skip
    seconds = None if resumed else time.process_time() - began  # of a run that was not stopped
    with task.averaged() as average:
        images = {steps: evaluation.sample(sampler, average, steps, seed) for steps in c.ablations.steps}
        rows = [{"steps": steps, "n": len(some)} | evaluation.measure(some) for steps, some in images.items()]
        batch = Encoded(ARTIFACTS / "encoded", min(512, len(data)), seed)(0)
        of_base = Generator(base.unet, schedule, prediction_type).to(accelerator.device)
        latents, prompt_embeds = batch.latents.float(), batch.prompt_embeds.float()
        noise = noise_kept(average, of_base, latents, prompt_embeds, schedule, seed, accelerator.device)
    card = {
        "run": identity, "arm": arm, "seed": seed, "updates": trainer.updates, "batch_size": trainer.batch_size,
        "unet_evaluations": task.unet_evaluations(trainer.updates), "processor_seconds": seconds,
        "noise_kept": noise, "rows": rows,
    }  # fmt: skip
    with publish(RUNS / f"{arm}-{seed}") as out:
        shutil.copy(work / "curve.csv", out / "curve.csv")
        if not seed:
            shown = np.concatenate([some[: c.ablations.pictures] for some in images.values()])
            save_image_grid(out / "pictures.png", shown, columns=len(shown) // len(images))
        (out / "metrics.json").write_text(json.dumps(card, indent=1))
    Checkpoint(work, accelerator, training).clear()


def code() -> list[Path]:
    """What an arm's numbers depend on beside settings and data: the files of the code that its stage names as deps."""
    stage = OmegaConf.to_container(OmegaConf.load(CHAIN))["stages"]["run"]["do"]
    sources = [Path(dep) for dep in stage["deps"] if dep.startswith("src/")]
    return [file for path in sources for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]


def arm_settings(arm: str) -> dict:
    """The arm's sections of pipelines/ablations/arms.yaml. Raises `UserError` where there is none of that name."""
    arms = OmegaConf.to_container(OmegaConf.load(ARMS))["arms"]
    if arm not in arms:
        raise UserError(f"arm {arm!r} is not in {ARMS}; allowed: {', '.join(arms)}")
    return arms[arm]


def finished(arm: str, seed: int) -> str | None:
    """The identity of the run whose result is there."""
    path = RUNS / f"{arm}-{seed}" / "metrics.json"
    return json.loads(path.read_text())["run"] if path.is_file() else None


@dataclass
class Prompts:
    """A set of prompts that arms are compared on: what is asked for, as the U-Net sees it, and who measures it.

    Noise depends on the seed alone, so that arms are compared on the same noise.
    """

    asked: Pairs
    text: Conditioning
    evaluator: Evaluator

    @classmethod
    def read(cls, c: config.Config, name: str, n: int, device: torch.device) -> Prompts:
        """The first `n` of a set, as the stage `sets` wrote it."""
        with np.load(SETS / f"{name}.npz") as made:
            prompt_embeds, reference = torch.from_numpy(made["prompt_embeds"][:n]), torch.from_numpy(made["features"])
        nouns = Nouns.load(c.data.node_modules)
        evaluator = Evaluator(reference, nouns, device, seed=0, neighborhood=c.evaluation.neighborhood)
        return cls(read_pairs(ARTIFACTS / "data" / name)[:n], Conditioning(prompt_embeds.to(device)), evaluator)

    def sample(self, sampler: Sampler, generator: Generator, steps: int, seed: int) -> np.ndarray:
        return sampler.sample(Method("ufogen", "renoise", steps), self.text, BLOCK, seed, generator)

    def measure(self, images: np.ndarray) -> dict[str, float]:
        found = self.evaluator(images, self.asked)
        return {name: float(f"{found[name]:.6g}") for name in METRICS if name in found}


if __name__ == "__main__":
    run(main)
