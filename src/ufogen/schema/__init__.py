"""Every parameter with its type and its range. There are no defaults: a value stands in experiments/ alone.

A section is a pydantic dataclass, so that `dataclasses.replace` checks its values too. `config.build` makes a section of
a tree and turns pydantic's complaints into one line.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ufogen.schema.chain import Base, Data, Evaluation, Objective, Sampler, Trainer, Tuning
from ufogen.schema.kinds import SECTION, Count, Device, Seed, Threads
from ufogen.schema.pretrain import Pretrain
from ufogen.schema.studies import Ablations, Applications, Coco, Comparison, Release, Toy


@dataclass(config=SECTION)
class Config:
    """The whole of params.yaml."""

    seed: Seed
    device: Device
    threads: Threads  # of torch on the CPU; results are bytewise the same only for the same number
    processes: Count  # that train side by side; small networks gain more from them than from threads
    data: Data
    base: Base
    pretrain: Pretrain
    objective: Objective
    tuning: Tuning
    trainer: Trainer
    sampler: Sampler
    evaluation: Evaluation
    applications: Applications
    toy: Toy
    ablations: Ablations
    comparison: Comparison
    coco: Coco
    release: Release
