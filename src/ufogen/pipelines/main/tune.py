"""Make the base consistent along its own ODE, for a generator that starts from there (objective.generator_init is `tuned`).

Beyond the paper, which starts from the base. Several processes: as for `train`.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from ufogen import config
from ufogen.base.loading import load_base
from ufogen.base.models import Pipeline
from ufogen.base.text import encode_nothing
from ufogen.data.training_data import open_training_data
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.schedule import Schedule
from ufogen.distillation.consistency import Consistency
from ufogen.pipelines.stage import ARTIFACTS, publish, run, sha256
from ufogen.training.checkpoint import Checkpoint, deciding, fingerprint
from ufogen.training.distiller import Distiller
from ufogen.training.log import CurveLog
from ufogen.training.loop import fit, make_accelerator

TUNED = ARTIFACTS / "tuned"


def main(c: config.Config) -> None:
    tune(c, TUNED)


def tune(c: config.Config, folder: Path) -> None:
    """Write `folder`: a card, and the U-Net and its curves where the objective asks for them."""
    if c.objective.generator_init != "tuned":
        with publish(folder) as out:
            (out / "card.json").write_text(json.dumps({"updates": 0}))
        return
    accelerator, base = make_accelerator(c.device, c.trainer.precision), load_base(ARTIFACTS / "base")
    torch.manual_seed(c.seed)
    task = make_tuning(c, base)
    data = open_training_data(c, accelerator, base)
    work = ARTIFACTS / "checkpoints" / folder.relative_to(ARTIFACTS)
    run_id = fingerprint(
        c.seed, config.to_dict(c.tuning), deciding(task.settings), data.card | {"data": None}, accelerator.num_processes,
        c.objective.entry_timestep, sha256(ARTIFACTS / "base" / "unet"),
    )  # fmt: skip
    resumable = Checkpoint(work, accelerator, run_id)
    log = CurveLog(work, {}, resumable.exists()) if accelerator.is_main_process else None
    tr = task.settings
    fit(
        task, data, accelerator, updates=tr.updates, seed=c.seed, folder=work, run=run_id,
        checkpoint_every=tr.checkpoint_every, log_every=tr.log_every, on_log=log, description="tuning",
    )  # fmt: skip
    with task.averaged() as student:
        if accelerator.is_main_process:
            with publish(folder) as out:
                student.unet.save_pretrained(out / "unet")
                shutil.copy(work / "curves.csv", out / "curves.csv")
                passes = task.unet_evaluations(tr.updates) * accelerator.num_processes
                images = tr.updates * tr.batch_size * tr.accumulation * accelerator.num_processes
                card = {"updates": tr.updates, "images": images, "unet_evaluations": passes}
                (out / "card.json").write_text(json.dumps(card | {"tuning": config.to_dict(c.tuning)}, indent=2))
    resumable.clear()


def make_tuning(c: config.Config, base: Pipeline) -> Distiller:
    """Consistency distillation of the base up to the entry timestep, with the sizes of the trainer."""
    tu = c.tuning
    schedule = Schedule.from_scheduler(base.scheduler).until(c.objective.entry_timestep)
    prediction_type = base.scheduler.config.prediction_type
    method = Consistency(
        schedule, config.Consistency("consistency", tu.skipping_step, tu.huber_c, tu.entry_share), prediction_type
    )
    settings = replace(
        c.trainer, updates=tu.updates, generator_learning_rate=tu.learning_rate, ema_decay=tu.ema_decay, beta1=0.9,
        discriminator_first=0, keep="last",
    )  # fmt: skip
    student = Generator(copy.deepcopy(base.unet).train(), schedule, prediction_type)
    teacher = Generator(base.unet, schedule, prediction_type)
    return Distiller(method, student, teacher, encode_nothing(base).arguments(), tu.guidance, settings)


if __name__ == "__main__":
    run(main)
