"""Parameters, overrides and options that are none."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import get_type_hints

from tests.bad.harness import MODEL, Case
from ufogen import config

SECTIONS = ("data", "base", "objective", "trainer", "sampler", "evaluation")
HUGE = str(10**30)
VALUES = ("nan", "inf", "-1", "0", "1.5", "1e300", HUGE, "null", "text", "true", "'[]'", "{a: 1}")


def keys(kind: type = config.Config, prefix: str = "") -> Iterator[str]:
    """Every value's key, of the main chain's sections."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            if prefix or field.name in SECTIONS:
                yield from keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def parameters() -> Iterator[Case]:
    """Each key with three of the values, in turn, given to a stage that ends early; then keys that are not there."""
    values = itertools.cycle(VALUES)
    for key in keys():
        for value in itertools.islice(values, 4 if key != "data.path" else 0):
            yield Case("parameters, by key", f"{key}={value}", "prepare", (f"{key}={value}",))
        next(values)
    for given in (
        "nosuch=1",
        "data.nosuch=1",
        "trainer.updates.x=1",
        "data=1",
        "trainer=",
        "=",
        "a b",
        "x",
        "a=${b}",
        "data[0]=1",
        "é=1",
        "objective={}",
        "trainer=[1]",
        "seed=" + "9" * 5000,
    ):
        yield Case("parameters, unknown or malformed", repr(given[:40]), "prepare", (given,))
    for key in keys():
        section, _, name = key.rpartition(".")
        yield Case("parameters, missing", key, "prepare", (), partial(_without, section, name))


def _without(section: str, name: str) -> None:
    path = Path("in/params.yaml")
    tree = json.loads(path.read_text())
    del (tree[section] if section else tree)[name]
    path.write_text(json.dumps(tree))


def composed() -> Iterator[Case]:
    """Overrides of compose and plan, which hydra parses."""
    given = (
        "profile=nosuch",
        "nosuch=1",
        "trainer.updates=0",
        "trainer.updates=nan",
        "trainer.updates=",
        "=",
        "a b",
        "seed=[",
        "seed={",
        "seed='",
        "+seed=1",
        "~seed",
        "++data.x=1",
        "seed=${nosuch}",
        "profile=../../etc",
        "profile=null",
        "objective=1",
        "trainer.beta1=inf",
        "seed=-1",
        "é=ü",
        "hydra.run.dir=x",
        "seed=\udcff",
        "seed=a\nb",
        "data.path=" + "x" * 9000,
    )
    for entry, words in itertools.product(("compose", "plan"), given):
        yield Case("overrides of experiments/", repr(words[:40]), entry, (words,), in_repository)
    for entry in ("compose", "plan"):
        yield Case("overrides of experiments/", "no experiments", entry)
    for option, value in itertools.product(("--gpus", "--mfu", "--gpu"), ("0", "-1", "nan", "inf", "text", HUGE, "")):
        link = in_repository
        yield Case("options of the command line", f"{option} {value!r}", "plan", (option, value), link)


def in_repository() -> None:
    """What compose reads and where it writes."""
    os.symlink("in/experiments", "experiments")
    for study in ("ablations", "comparison"):
        Path("pipelines", study).mkdir(parents=True)


def command_line() -> Iterator[Case]:
    image = {"sample": (), "edit": ("in/given.png",), "control": ("in/given.png",)}
    options = dict.fromkeys(("--seed", "--steps", "-n", "--scale", "--batch-size"), ("-1", "0", "nan", "1.5", "text", HUGE, ""))
    options |= {"--device": ("tpu", "meta", "cuda:99", ""), "--nosuch": ("1",)}
    own = {
        "edit": {"--strength": ("nan", "-0.1", "2", "inf", "text")},
        "control": {"--control-scale": ("nan", "-1", "1e9", "inf", "")},
    }
    for entry, given in image.items():
        for option, values in (options | own.get(entry, {})).items():
            for value in values:
                arguments = (*given, "a noun", *MODEL, f"{option}={value}" if option.startswith("--") else f"{option}{value}")
                yield Case("options of the command line", f"{option} {value!r}", entry, (*arguments, "-o", "o.png"))
    for name in ("", "x" * 5000, "in", "in/params.yaml", "/dev/null", "nosuch", "\udcff", "in/model/unet"):
        yield Case("models that are none", repr(name[:20]), "sample", ("a", "--model", name, "-o", "o.png"))
        yield Case("models that are none", repr(name[:20]), "info", (name,))
        yield Case("models that are none", repr(name[:20]), "export", (name, "out"))
        yield Case(
            "models that are none",
            repr(name[:20]),
            "control",
            ("in/given.png", "a", *MODEL, "--controlnet", name, "-o", "o.png"),
        )


def trainings() -> Iterator[Case]:
    """Values that the schema may allow and a training cannot do."""
    given = [
        f"seed={HUGE}",
        "seed=4294967296",
        f"threads={HUGE}",
        f"trainer.batch_size={HUGE}",
        "trainer.batch_size=15",
        f"trainer.warmup={HUGE}",
        f"trainer.generator_lora_rank={HUGE}",
        "trainer.generator_lora_rank=100000",
        f"trainer.validation_size={HUGE}",
        f"objective.entry_timestep={HUGE}",
        "objective.step_size=1001",
        "objective.minimum_timestep=1000",
        "objective.s_law=uniform",
        "objective.s_high=2000",
        f"objective.statistics_group={HUGE}",
        "objective.statistics_group=3",
        "trainer.generator_learning_rate=1e300",
        "objective.r1_weight=1e300",
        "trainer.optimizer=adam8bit",
        "trainer.precision=fp16",
        "device=cuda",
        "trainer.sharding=full",
        f"trainer.accumulation={HUGE}",
        f"trainer.checkpoint_every={HUGE}",
        "data.source=coco",
        "data.source=webdataset",
        f"objective.r1_interval={HUGE}",
        "trainer.gradient_clip=1e-300",
        "objective.reconstruction_weight=1e300",
        "trainer.keep=best",
    ]
    for words in given:
        yield Case("values for a training", words.replace(HUGE, "10^30"), "train", (words,))
    for entry, words in itertools.product(
        ("prepare", "encode"),
        (
            f"seed={HUGE}",
            f"data.resolution={HUGE}",
            f"data.evaluation_size={HUGE}",
            f"data.workers={HUGE}",
            "data.workers=100000",
        ),
    ):
        yield Case("values for a training", words.replace(HUGE, "10^30"), entry, (words,))
