"""Train and measure one arm of the comparison: `python -m ufogen.pipelines.comparison.run comparison.arm=NAME seed=N`."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from ufogen import config
from ufogen.base.loading import load_base
from ufogen.data.encoded import Encoded
from ufogen.data.images import save_image_grid
from ufogen.distillation.methods import METHODS
from ufogen.evaluation.sampler import Method, Sampler
from ufogen.pipelines.comparison.arm import arm_settings, make_arm
from ufogen.pipelines.comparison.paths import CHAIN, RUNS
from ufogen.pipelines.comparison.prompts import Prompts
from ufogen.pipelines.stage import ARTIFACTS, publish, run, sha256
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.log import CurveLog, Table
from ufogen.training.loop import fit, make_accelerator


def main(c: config.Config) -> None:
    """Write paper/runs/comparison/ARM-SEED: metrics.json, curves.csv and, of the first seed, pictures.png, with a row for each
    number of steps; unless they are there already.
    """
    name, seed, settings = c.comparison.arm, c.seed, arm_settings(c.comparison.arm)
    data = Encoded(ARTIFACTS / "encoded", settings["trainer"]["batch_size"] * settings["trainer"]["accumulation"], seed)
    accelerator = make_accelerator(c.device, settings["trainer"]["precision"])
    identity = fingerprint(
        seed, settings, accelerator.mixed_precision, config.to_dict(c.comparison), config.to_dict(c.evaluation),
        c.sampler.guidance, c.sampler.batch_size, data.card,
        [sha256(path) for path in (ARTIFACTS / "base" / "unet", *code(settings))],
    )  # fmt: skip
    if finished(name, seed) == identity:
        print(f"{name}-{seed}: already there")
        return
    base = load_base(ARTIFACTS / "base")
    torch.manual_seed(seed)
    arm = make_arm(name, settings, base, c.sampler.guidance, c.comparison.unet_evaluations)
    tr, device = arm.task.settings, accelerator.device
    work = ARTIFACTS / "checkpoints" / "comparison" / f"{name}-{seed}"
    resumed = Checkpoint(work, accelerator, identity).exists()
    curve, clock = CurveLog(work, {}, resumed), Clock(work, resumed)

    def log(step: int, means: dict[str, float]) -> None:
        curve(step, means)
        clock(step)

    fit(
        arm.task, data, accelerator, updates=tr.updates, seed=seed, folder=work, run=identity,
        checkpoint_every=tr.checkpoint_every, log_every=tr.log_every, on_log=log,
        description=f"{name}-{seed}",
    )  # fmt: skip
    training = {
        "updates": tr.updates, "training_images": tr.updates * tr.batch_size * tr.accumulation,
        "training_unet_evaluations": arm.task.unet_evaluations(tr.updates), "training_seconds": clock.seconds,
        "peak_memory_mib": peak_memory(device),
    }  # fmt: skip
    base.vae.to(device)
    sampler = Sampler(base, device, parameterization=arm.parameterization, timesteps=arm.timesteps)
    prompts, rows, pictures = Prompts(c, device), [], []
    for steps in settings["steps"]:
        with arm.network(steps) as network:
            found, images = prompts.measure(sampler, Method(name, arm.sampler, steps), seed, network)
        rows += [row | training for row in found]
        pictures.append(images[: c.comparison.pictures])
    with publish(RUNS / f"{name}-{seed}") as out:
        (out / "curves.csv").write_bytes((work / "curves.csv").read_bytes())
        if not seed:
            save_image_grid(out / "pictures.png", np.concatenate(pictures), columns=len(pictures[0]))
        (out / "metrics.json").write_text(json.dumps({"run": identity, "arm": name, "seed": seed, "rows": rows}, indent=1))
    Checkpoint(work, accelerator, identity).clear()


class Clock:
    """Seconds of training, those before a stop included: called with the number of updates at each logging."""

    def __init__(self, work: Path, resumed: bool):
        self.table, self.last = Table(work / "clock.csv", resumed), time.perf_counter()

    def __call__(self, step: int) -> None:
        before, now = self.table.before(step), time.perf_counter()
        self.table.add(step, {"seconds": (before[-1]["seconds"] if before else 0.0) + now - self.last})
        self.last = now

    @property
    def seconds(self) -> float:
        return float(self.table.rows[-1]["seconds"])


def peak_memory(device: torch.device) -> int:
    """MiB that this process has held at most, on its GPU where it has one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def code(settings: dict) -> list[Path]:
    """What an arm's numbers depend on beside settings and data: the files of the code that its stage names as deps.

    Those of other methods are left out, and the list of all: a method that is added changes no other's numbers.
    """
    stage = OmegaConf.to_container(OmegaConf.load(CHAIN))["stages"]["run"]["do"]
    sources = [Path(dep) for dep in stage["deps"] if dep.startswith("src/")]
    files = [file for path in sources for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    others = {"methods", *METHODS} - {settings.get("distillation", {}).get("method")}
    return [file for file in files if file.parent.name != "distillation" or file.stem not in others]


def finished(arm: str, seed: int) -> str | None:
    """The identity of the run whose result is there."""
    path = RUNS / f"{arm}-{seed}" / "metrics.json"
    return json.loads(path.read_text())["run"] if path.is_file() else None


if __name__ == "__main__":
    run(main)
