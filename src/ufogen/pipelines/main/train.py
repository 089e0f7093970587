"""Train the one-step generator from the base.

Several processes: `python -m ufogen.launch --standalone --nproc_per_node 2 -m ufogen.pipelines.main.train`, or on GPUs
`accelerate launch --config_file experiments/accelerate/ddp.yaml -m ufogen.pipelines.main.train`, with
`trainer.sharding=full` where the networks are to be divided over them. An update takes trainer.batch_size x
trainer.accumulation pairs of each process.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ufogen import config
from ufogen.base.loading import load_base, load_part
from ufogen.data.encoded import Encoded
from ufogen.data.streamed import Streamed
from ufogen.data.training_data import open_training_data
from ufogen.diffusion.losses import EQUILIBRIUM
from ufogen.diffusion.networks import Discriminator, Generator, make_networks
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.evaluation.validation import Validation
from ufogen.files import DISCRIMINATOR, altered
from ufogen.inference.export import ufogen_scheduler
from ufogen.pipelines.stage import ARTIFACTS, publish, run, sha256
from ufogen.randomness import Draws, torch_generator
from ufogen.training.checkpoint import Checkpoint, deciding, fingerprint
from ufogen.training.diagnosis import diagnose
from ufogen.training.log import CurveLog, Table
from ufogen.training.loop import fit, make_accelerator
from ufogen.training.lora import add_lora, save_generator
from ufogen.training.trainer import AdversarialTrainer


def main(c: config.Config) -> None:
    train(c, ARTIFACTS / "train")


def train(
    c: config.Config,
    folder: Path,
    encoded: Path = ARTIFACTS / "encoded",
    tuned_base: Path = ARTIFACTS / "tuned",
    start: Path | None = None,
    keep_discriminator: bool = False,
) -> None:
    """Write `folder`, from the pairs in `encoded`: the averaged generator's weights and scheduler, curves and one-step
    samples from fixed noise.

    tuned_base: the base as `tune` left it, which G starts from where the objective says so.
    start: what an earlier training wrote. Its generator, and its discriminator where it was kept, go on; the optimizers begin
        anew, and D has its updates alone again.
    Samples and validation need the prompts of nouns or a folder; other sources have curves alone, and keep the last update.
    Raises `UserError` where trainer.keep is `best` for such a source.
    """
    validates = c.data.source in ("nouns", "folder")
    if c.trainer.keep == "best" and not validates:
        raise UserError(
            f"parameter trainer.keep is best; allowed with data.source {c.data.source}, which has no validation: last"
        )
    tr, accelerator = c.trainer, make_accelerator(c.device, c.trainer.precision)
    base = load_base(ARTIFACTS / "base")
    schedule = Schedule.from_scheduler(base.scheduler).until(c.objective.entry_timestep)
    torch.manual_seed(c.seed)
    starts = [ARTIFACTS / "base" / "unet"]
    tuned = None
    if c.objective.generator_init == "tuned" and start is None:
        starts.append(tuned_base / "unet")
        tuned = load_part(UNet2DConditionModel, starts[-1], "the tuned generator")
    objective = replace(c.objective, generator_init="base") if start else c.objective
    networks = make_networks(base.unet, schedule, base.scheduler.config.prediction_type, objective, tuned)
    if start:
        starts += go_on(*networks, start)
    for network, rank in zip(networks, (tr.generator_lora_rank, tr.discriminator_lora_rank), strict=True):
        if rank:
            add_lora(network, rank)
    task = AdversarialTrainer(*networks, schedule, c.objective, tr)
    data = open_training_data(c, accelerator, base, encoded)
    work = ARTIFACTS / "checkpoints" / folder.relative_to(ARTIFACTS)
    run_id = fingerprint(
        c.seed, config.to_dict(c.objective), deciding(tr), data.card | {"data": None}, accelerator.num_processes,
        [sha256(start) for start in starts],
    )  # fmt: skip
    resumable = Checkpoint(work, accelerator, run_id)
    resume = resumable.exists()
    log = validation = diagnosis = None
    if accelerator.is_main_process:
        diagnosis = Table(work / "diagnosis.csv", resume)
        log = CurveLog(work, {"equilibrium": EQUILIBRIUM[c.objective.adversarial]}, resume)
        if validates:
            validation = Validation(c, base, work, accelerator.device, resume)

    def validate(step: int) -> None:
        draw, measure = (step % every == 0 or step == tr.updates for every in (tr.sample_every, tr.validate_every))
        if measure:
            found = diagnose(task, data(step), Draws(torch_generator(accelerator.device, c.seed, "diagnosis", step)))
            if diagnosis is not None:
                diagnosis.add(step, found)
        if validates and (draw or measure):
            with task.averaged() as generator:  # on all processes, which have each a part of it if it is sharded
                if validation is not None:
                    validation(generator, step, draw=draw, measure=measure)

    fit(
        task, data, accelerator, updates=tr.updates, seed=c.seed, folder=work, run=run_id,
        checkpoint_every=tr.checkpoint_every, log_every=tr.log_every, on_log=log,
        on_checkpoint=validate, description="ufogen",
    )  # fmt: skip
    with (
        contextlib.nullcontext() if tr.keep == "best" else task.averaged() as generator,
        task.of_d.passes.whole() if keep_discriminator else contextlib.nullcontext() as discriminator,
    ):
        if accelerator.is_main_process:
            with publish(folder) as out:
                if discriminator is not None:
                    (out / DISCRIMINATOR).parent.mkdir()
                    save_file(discriminator.state_dict(), out / DISCRIMINATOR)
                if tr.keep == "best":
                    shutil.copytree(work / "best", out, dirs_exist_ok=True)
                else:
                    save_generator(generator.unet, out)
                ufogen_scheduler(base.scheduler.config, c.objective.entry_timestep).save_pretrained(out / "scheduler")
                for name in ("curves.csv", "diagnosis.csv"):
                    shutil.copy(work / name, out / name)
                if validates:
                    shutil.copy(work / "validation.csv", out / "validation.csv")
                    shutil.copytree(work / "samples", out / "samples")
                kept = validation.best if tr.keep == "best" else tr.updates
                (out / "card.json").write_text(json.dumps(training_card(c, task, data, kept, start), indent=2))
    resumable.clear()


def go_on(generator: Generator, discriminator: Discriminator, start: Path) -> list[Path]:
    """Give both networks the weights of an earlier training, and say where they lie.

    Raises `UserError` where they are missing, damaged or of other networks.
    """
    found, folder = [start / "unet"], start / DISCRIMINATOR.parent
    unet = load_part(UNet2DConditionModel, found[0], "the generator to go on with")
    try:
        generator.unet.load_state_dict(unet.state_dict())
        if folder.is_dir():
            found.append(start / DISCRIMINATOR)
            if damaged := altered(folder):
                raise UserError(
                    f"{damaged[0]} is missing or differs from its recorded hash: get it again, or remove its folder"
                )
            discriminator.load_state_dict(load_file(found[-1]))
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:  # the last: a record of hashes that is none
        raise UserError(f"{found[-1]} does not fit the networks of these settings: {str(error).splitlines()[0]}") from error
    return found


def training_card(c: config.Config, task: AdversarialTrainer, data: Encoded | Streamed, kept: int, start: Path | None) -> dict:
    """What the run was: settings, sizes and the number of U-Net passes, for comparison at equal compute."""
    return ({"start": str(start)} if start else {}) | {
        "seed": c.seed,
        "objective": config.to_dict(c.objective),
        "trainer": config.to_dict(c.trainer),
        "precision": task.accelerator.mixed_precision,
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
