"""Train the control networks, a ControlNet and a T2I-Adapter, on the frozen base. What is finished is kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch

from ufogen import config
from ufogen.applications.control import KINDS, ControlTask, EncodedWithEdges, make_control
from ufogen.applications.edges import THRESHOLD
from ufogen.base.loading import load_base
from ufogen.base.text import encode_text
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.files import write_whole
from ufogen.inference.export import refuse_sdxl
from ufogen.pipelines.applications.paths import CONTROL
from ufogen.pipelines.stage import ARTIFACTS, publish, run, sha256, table
from ufogen.training.checkpoint import Checkpoint, fingerprint
from ufogen.training.loop import fit, make_accelerator

SHARED = ("batch_size", "warmup", "timesteps", "caption_dropout", "precision")  # settings that both networks depend on


def main(c: config.Config) -> None:
    """Write artifacts/control/controlnet and artifacts/control/adapter: weights, the loss and a card. A stopped run goes on."""
    if c.data.source != "nouns":
        raise UserError(f"parameter data.source is {c.data.source}; allowed for control by edges: nouns")
    for kind in KINDS:
        identity = run_identity(c, kind)
        card = CONTROL / kind / "card.json"
        if card.is_file() and json.loads(card.read_text())["run"] == identity:
            print(f"{kind}: already trained")
        else:
            train(c, kind, identity)


def run_identity(c: config.Config, kind: str) -> str:
    """Of everything that decides a control network's weights."""
    settings = {name: value for name, value in config.to_dict(c.applications).items() if name in SHARED} | {"kind": kind}
    data = json.loads((ARTIFACTS / "encoded" / "card.json").read_text())
    own = config.to_dict(getattr(c.applications, kind))
    return fingerprint(c.seed, settings, own, data, THRESHOLD, sha256(ARTIFACTS / "base" / "unet"))


def train(c: config.Config, kind: str, identity: str) -> None:
    """One control network."""
    a = c.applications
    training: config.ControlTraining = getattr(a, kind)
    base = load_base(ARTIFACTS / "base")
    refuse_sdxl(base, "training a control network")
    torch.manual_seed(c.seed)
    control = make_control(kind, base.unet, base.vae_scale_factor)
    images = np.load(ARTIFACTS / "data" / "train" / "images.npy", mmap_mode="r")
    data = EncodedWithEdges(ARTIFACTS / "encoded", images, a.batch_size, c.seed)
    schedule = Schedule.from_scheduler(base.scheduler)
    empty = encode_text([""], base.text_encoder, base.tokenizer)[0].float()
    task = ControlTask(control, base.unet, a, training, schedule, base.scheduler.config.prediction_type, empty)
    accelerator = make_accelerator(c.device, a.precision)
    work = ARTIFACTS / "checkpoints" / kind
    began, losses = time.perf_counter(), LossLog(work / "loss.json")
    start = fit(
        task, data, accelerator, updates=training.updates, seed=c.seed, folder=work, run=identity,
        checkpoint_every=a.checkpoint_every, log_every=a.log_every, on_log=losses, description=kind,
    )  # fmt: skip
    rate = (training.updates - start) / (time.perf_counter() - began)
    with publish(CONTROL / kind) as out:
        accelerator.unwrap_model(task.control).eval().cpu().save_pretrained(out)
        (out / "loss.csv").write_text(table({"update": step, "loss": loss} for step, loss in sorted(losses.rows.items())))
        card = {
            "run": identity, "kind": kind, "applications": config.to_dict(a), "threshold": THRESHOLD,
            "parameters": sum(p.numel() for p in control.parameters()), "threads": torch.get_num_threads(),
            "updates_per_second": round(rate, 3) if start < training.updates else None,
        }  # fmt: skip
        (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    Checkpoint(work, accelerator, identity).clear()
    print(f"{kind}: {training.updates - start} updates, {rate:.2f} a second")


class LossLog:
    """The training loss; it stands beside the checkpoints, so that a resumed run has the whole of it."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[int, float] = {}
        if path.is_file():
            self.rows = {int(step): loss for step, loss in json.loads(path.read_text()).items()}

    def __call__(self, step: int, means: dict[str, float]) -> None:
        self.rows = {s: loss for s, loss in self.rows.items() if s < step}
        self.rows |= {step: means["loss"]} if "loss" in means else {}  # all updates since the last may have been left out
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.rows).encode())


if __name__ == "__main__":
    run(main)
