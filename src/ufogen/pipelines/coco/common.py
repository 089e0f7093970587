"""What the stages of the COCO evaluation share: the fixed prompts, the methods, and where the samples lie."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ufogen import config
from ufogen.diffusion.sampling import SOLVERS
from ufogen.errors import UserError
from ufogen.evaluation.methods import Method
from ufogen.files import write_whole
from ufogen.pipelines.stage import ARTIFACTS


@dataclass
class Prompts:
    """A fixed list of images' numbers and captions, in the order in which they are sampled."""

    split: str
    seed: int
    annotations_sha256: str
    ids: list[int]
    captions: list[str]


def folder(c: config.Config) -> Path:
    return ARTIFACTS / "coco" / c.coco.split


def size(c: config.Config) -> int:
    return getattr(c.coco.size, c.coco.split)


def write_prompts(c: config.Config, prompts: Prompts) -> None:
    folder(c).mkdir(parents=True, exist_ok=True)
    write_whole(folder(c) / "prompts.json", json.dumps(asdict(prompts), indent=0, ensure_ascii=False).encode())


def read_prompts(c: config.Config) -> Prompts:
    """The list that the stage prompts wrote. Raises `UserError` where it is absent, damaged or of other parameters."""
    path = folder(c) / "prompts.json"
    try:
        prompts = Prompts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; run the stage prompts of pipelines/coco/dvc.yaml first") from error
    if (prompts.split, prompts.seed, len(prompts.captions)) != (c.coco.split, c.seed, size(c)):
        raise UserError(
            f"{path} holds {len(prompts.captions)} prompts of {prompts.split}, seed {prompts.seed}; wanted are {size(c)} of "
            f"{c.coco.split}, seed {c.seed}: run the stage prompts of pipelines/coco/dvc.yaml again"
        )
    return prompts


def methods(c: config.Config) -> list[Method]:
    """UFOGen without guidance, the base's solvers with it. Raises `UserError` for a name that is neither."""
    rows = []
    for name in c.coco.methods:
        if name == "ufogen":
            rows += [Method(name, "renoise", steps, 0.0) for steps in c.coco.ufogen_steps]
        elif name in SOLVERS:
            rows += [Method("base", name, steps, c.coco.guidance) for steps in c.coco.base_steps]
        else:
            raise UserError(f"parameter coco.methods has {name!r}; allowed: ufogen, {', '.join(SOLVERS)}")
    return rows


def blocks(c: config.Config) -> list[range]:
    """The prompts' numbers, divided into the shards."""
    return [range(first, min(first + c.coco.batch_size, size(c))) for first in range(0, size(c), c.coco.batch_size)]


def shard(c: config.Config, method: Method, block: range) -> Path:
    return folder(c) / "samples" / method.name / f"{block.start // c.coco.batch_size:05d}.tar"
