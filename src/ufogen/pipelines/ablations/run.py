"""Train and measure one arm of the ablation study: `python -m ufogen.pipelines.ablations.run ablations.arm=NAME seed=N`."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from omegaconf import OmegaConf
from torch import Tensor

from ufogen import config
from ufogen.base.autoencoder import decode_latents
from ufogen.data.encoded import Encoded
from ufogen.data.nouns import Nouns
from ufogen.diffusion.batch import EncodedBatch
from ufogen.diffusion.networks import Generator, make_networks
from ufogen.diffusion.sampling import sample_generator, step_timesteps
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.evaluation import features
from ufogen.evaluation.alignment import attribute_accuracy
from ufogen.evaluation.fidelity import fidelity
from ufogen.inference.export import load_base
from ufogen.pipelines.ablations.sets import SETS
from ufogen.pipelines.main.prepare import read_pairs
from ufogen.pipelines.stage import ARTIFACTS, publish, run, sha256
from ufogen.randomness import torch_generator
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.log import Table
from ufogen.training.loop import fit, make_accelerator
from ufogen.training.trainer import AdversarialTrainer

ARMS = Path("pipelines/ablations/arms.yaml")
RUNS = ARTIFACTS / "ablations" / "runs"
METRICS = ("kid_lite0", "fd_lite0", "precision", "recall", "attribute_accuracy")
# what a number depends on beside the settings and the data; the deps of the stage, too
CODE = tuple(
    f"src/ufogen/{name}.py"
    for name in (
        "base/autoencoder", "data/encoded", "diffusion/batch", "diffusion/losses", "diffusion/networks", "diffusion/objective",
        "diffusion/prediction",
        "diffusion/sampling", "diffusion/schedule", "evaluation/alignment", "evaluation/features", "evaluation/fidelity",
        "pipelines/ablations/run", "randomness", "training/learning_rate", "training/loop", "training/optimizers",
        "training/parallel", "training/trainer",
    )
)  # fmt: skip


def main(c: config.Config) -> None:
    """Write artifacts/ablations/runs/ARM-SEED: metrics.json, curve.csv and pictures.npy, unless they are there already."""
    arm, seed, settings = c.ablations.arm, c.seed, arm_settings(c.ablations.arm)
    objective = config.build(config.Objective, settings["objective"], f"arms.{arm}.objective.")
    trainer = config.build(config.Trainer, settings["trainer"], f"arms.{arm}.trainer.")
    data = Encoded(ARTIFACTS / "encoded", trainer.batch_size, seed)
    identity = fingerprint(
        seed, settings["objective"], settings["trainer"], config.to_dict(c.ablations), data.card,
        [sha256(path) for path in (ARTIFACTS / "base" / "unet", *map(Path, CODE))],
    )  # fmt: skip
    if finished(arm, seed) == identity:
        print(f"{arm}-{seed}: already there")
        return
    accelerator = make_accelerator(c.device, trainer.precision)
    base = load_base(ARTIFACTS / "base")
    schedule, prediction_type = Schedule.from_scheduler(base.scheduler), base.scheduler.config.prediction_type
    torch.manual_seed(seed)
    generator, discriminator = make_networks(base.unet, schedule, prediction_type, objective)
    task = AdversarialTrainer(generator, discriminator, schedule, objective, trainer)
    judge = Judge(c, base, schedule, objective.parameterization, seed, accelerator.device)
    work = ARTIFACTS / "checkpoints" / "ablations" / f"{arm}-{seed}"
    began, resumed = time.process_time(), Checkpoint(work, accelerator, identity).exists()
    curve = Table(work / "curve.csv", resumed)

    def look(step: int) -> None:
        if step % c.ablations.curve_every == 0 or step == trainer.updates:
            with task.averaged() as average:
                curve.add(step, judge.curve(average))

    fit(
        task, data, accelerator, updates=trainer.updates, seed=seed, folder=work, run=identity,
        checkpoint_every=trainer.checkpoint_every, log_every=trainer.log_every, on_checkpoint=look, description=f"{arm}-{seed}",
    )  # fmt: skip
    seconds = None if resumed else time.process_time() - began  # of a run that was not stopped
    with task.averaged() as average:
        rows, pictures = judge.final(average)
        some = Encoded(ARTIFACTS / "encoded", min(512, len(data)), seed)(0)
        noise = judge.noise_kept(average, Generator(base.unet, schedule, prediction_type), some)
    card = {
        "run": identity, "arm": arm, "seed": seed, "updates": trainer.updates, "batch_size": trainer.batch_size,
        "unet_evaluations": task.unet_evaluations(trainer.updates), "processor_seconds": seconds,
        "noise_kept": noise, "rows": rows,
    }  # fmt: skip
    with publish(RUNS / f"{arm}-{seed}") as out:
        shutil.copy(work / "curve.csv", out / "curve.csv")
        np.save(out / "pictures.npy", pictures)
        (out / "metrics.json").write_text(json.dumps(card, indent=1))
    Checkpoint(work, accelerator, identity).clear()


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


class Judge:
    """Quality of a generator: on validation prompts while it trains, on evaluation prompts at the end.

    Noise depends on the seed alone, so that arms are compared on the same noise.
    """

    def __init__(
        self,
        c: config.Config,
        base: StableDiffusionPipeline,
        schedule: Schedule,
        parameterization: str,
        seed: int,
        device: torch.device,
    ):
        self.c, self.base, self.schedule, self.seed, self.device = c, base, schedule, seed, device
        self.parameterization, self.vae = parameterization, base.vae.to(device)
        self.nouns = Nouns.load(c.data.node_modules)
        a = c.ablations
        self.validation, self.evaluation = self._set("validation", a.curve_size), self._set("evaluation", a.evaluation_size)

    def _set(self, name: str, n: int) -> dict:
        """The first prompts of a set with their token states, and features of real images, as `ablation_sets` wrote them."""
        pairs = read_pairs(ARTIFACTS / "data" / name)
        with np.load(SETS / f"{name}.npz") as made:
            prompt_embeds, reference = torch.from_numpy(made["prompt_embeds"][:n]), torch.from_numpy(made["features"])
        return {
            "parts": pairs.parts[:n],
            "mentioned": pairs.mentioned[:n],
            "prompt_embeds": prompt_embeds.to(self.device),
            "reference": reference,
        }

    def images(self, generator: Generator, prompt_embeds: Tensor, steps: int) -> np.ndarray:
        channels, size = self.base.unet.config.in_channels, self.base.unet.config.sample_size
        images = []
        for block, some in enumerate(prompt_embeds.split(100)):
            rng = torch_generator("cpu", self.seed, "initial noise", block)
            noise = torch.randn((len(some), channels, size, size), generator=rng).to(self.device)
            fresh = torch_generator(self.device, self.seed, "fresh noise", block)
            latents = sample_generator(generator, noise, some, self.schedule, steps, fresh, self.parameterization)
            images.append(decode_latents(latents, self.vae))
        return np.concatenate(images)

    def measure(self, images: np.ndarray, asked: dict) -> dict[str, float]:
        found = fidelity(
            features.extract(images, device=self.device), asked["reference"], seed=0, kid_subsets=50,
            kid_subset_size=max(len(images) // 2, 2), neighborhood=self.c.evaluation.neighborhood,
        )  # fmt: skip
        found["attribute_accuracy"] = attribute_accuracy(images, asked["parts"], asked["mentioned"], self.nouns)["mean"]
        return {name: float(f"{found[name]:.6g}") for name in METRICS}

    @torch.no_grad()
    def noise_kept(self, generator: Generator, base: Generator, batch: EncodedBatch) -> dict[int, float]:
        """kappa by least squares in G(x_t) - m = kappa (x_t - sqrt(abar_t) m), where m is the base's estimate of E[x_0|x_t].

        For each t of four-step sampling. A generator that returns the posterior mean has 0; the chained reconstruction at x_s
        has its optimum at a positive kappa (docs/ablations.md).
        """
        x_0, prompt_embeds = batch.latents.float(), batch.prompt_embeds.float()
        n = len(x_0)
        found = {}
        for t in step_timesteps(4, self.schedule.num_timesteps):
            times = torch.full((n,), t)
            noise = torch.randn(x_0.shape, generator=torch_generator("cpu", self.seed, "noise kept", t))
            x_t = self.schedule.q(x_0, times).sample(noise)
            means, changes = [], []
            for part in torch.arange(n).split(128):
                arguments = [value[part].to(self.device) for value in (x_t, times, prompt_embeds)]
                means.append(base.to(self.device)(*arguments).cpu())
                changes.append(generator(*arguments).cpu() - means[-1])
            rest = x_t - float(self.schedule.alpha_bar(times[:1])) ** 0.5 * torch.cat(means)
            found[t] = float((torch.cat(changes) * rest).sum() / rest.square().sum())
        return found

    def curve(self, generator: Generator) -> dict[str, float]:
        """Metrics of one-step samples for the validation prompts."""
        return self.measure(self.images(generator, self.validation["prompt_embeds"], 1), self.validation)

    def final(self, generator: Generator) -> tuple[list[dict], np.ndarray]:
        """A row of metrics for each number of steps, and the first pictures (steps, n, h, w, 3) uint8."""
        rows, pictures = [], []
        for steps in self.c.ablations.steps:
            images = self.images(generator, self.evaluation["prompt_embeds"], steps)
            rows.append({"steps": steps, "n": len(images)} | self.measure(images, self.evaluation))
            pictures.append(images[: self.c.ablations.pictures])
        return rows, np.stack(pictures)


if __name__ == "__main__":
    run(main)
