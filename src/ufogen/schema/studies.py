"""The studies beside the main chain: ablations, COCO, applications, the toy in two dimensions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ufogen.schema.kinds import (
    SECTION,
    Count,
    Counts,
    Decay,
    Gamma,
    Names,
    Number,
    Precision,
    Refused,
    Share,
    Solver,
    Text,
    Whole,
)

TOY_TIMESTEPS = 1000  # of the toy's schedules; those of the base are known from its scheduler alone


@dataclass(config=SECTION)
class Ablations:
    """The ablation study: shorter runs than the main chain's, so that many arms fit into an afternoon of two cores."""

    arm: Text  # a file of experiments/ablation
    updates: Count  # of every arm
    discriminator_first: Whole  # updates of D alone, of every arm but the author's code
    steps: Counts  # of sampling
    evaluation_size: Count  # prompts of the evaluation set
    curve_size: Count  # prompts of the validation set, for quality against updates ...
    curve_every: Count  # ... measured this often
    pictures: Count  # kept of each arm
    toy_seeds: Count  # of each of the claims' arms in two dimensions


@dataclass(config=SECTION)
class Release:
    """The release: the main chain's generator trained further, for hours (pipelines/release/dvc.yaml)."""

    train_size: Count  # pairs of nouns, more than the main chain's; other sources have what they have
    start: Text  # folder of a generator, and of its discriminator, to go on with; empty: what the main chain starts from
    updates: Count
    entry_share: Share  # in place of the objective's: of draws at the entry ...
    minimum_timestep: Whole  # ... and the least t of the others
    discriminator_first: Whole  # updates of D alone
    decay: Literal["constant", "cosine"]
    ema_decay: Decay
    checkpoint_every: Count
    validate_every: Count  # a picture and a line of the curve
    noise_seeds: Count  # draws of prompts' noise that the table has rows of
    base_solvers: Annotated[list[Solver], Field(min_length=1)]  # of the base's rows beside them
    base_steps: Counts


@dataclass(config=SECTION)
class Comparison:
    """The methods beside UFOGen, each with the same number of U-Net evaluations in training (pipelines/comparison/dvc.yaml)."""

    arm: Text  # a file of experiments/distillation
    unet_evaluations: Count  # forward passes of an item in the training of every arm, its teacher's included
    evaluation_size: Count  # prompts of the evaluation set
    heldout_size: Count  # of the prompts whose pairs of head and glasses no training image has
    pictures: Count  # kept of each arm


@dataclass(config=SECTION)
class CocoSize:
    """Prompts of a split, and samples of each method; the published numbers are of these."""

    val2017: Count
    val2014: Count


@dataclass(config=SECTION)
class Coco:
    """The paper's zero-shot evaluation (pipelines/coco/dvc.yaml)."""

    folder: Text  # annotations/captions_SPLIT.json, and the images in SPLIT
    split: Literal["val2017", "val2014"]  # the stages of pipelines/coco/dvc.yaml set it
    size: CocoSize
    base: Text  # any Stable Diffusion folder: text encoder, autoencoder, and the base
    generator: Text  # any folder whose `unet` is a generator trained from that base
    methods: Annotated[list[Literal["ufogen", Solver]], Field(min_length=1)]  # a solver is the base's
    ufogen_steps: Counts
    base_steps: Counts
    guidance: Number  # of the base
    batch_size: Count  # samples of a shard, and images at a time in the metrics
    precision: Precision
    inception_weights: Text  # a file; empty: torch-fidelity's own, downloaded once
    clip: Names  # folders in transformers' layout, or names on the hub


@dataclass(config=SECTION)
class ControlTraining:
    """How long a control network is trained."""

    updates: Count
    learning_rate: Number


@dataclass(config=SECTION)
class Applications:
    """Control by edges and image-to-image (pipelines/applications/dvc.yaml)."""

    controlnet: ControlTraining
    adapter: ControlTraining
    batch_size: Count
    warmup: Whole
    timesteps: Literal["uniform", "cubic"]  # cubic draws the late ones more often, as T2I-Adapter does
    caption_dropout: Share
    precision: Precision
    checkpoint_every: Count
    log_every: Count
    scale: Number  # what the control networks add is multiplied by it when sampling
    base_steps: Count  # of DDIM
    samples: Count  # images measured
    strengths: Count  # of image-to-image: 1 / strengths ... 1


@dataclass(config=SECTION)
class ToyMethod:
    """A point in the space of diffusion-GANs, in two dimensions; the axes are those of `Objective`."""

    name: Text
    parameterization: Literal["forward", "posterior"]
    discriminator_input: Literal["marginal", "joint"]  # x_s, or the pair (x_s, x_t)
    reconstruction: Literal["x_0", "x_s", "none"]  # x_s is weighted by the KL of the forward kernels
    gamma: Gamma  # of the reconstruction at x_0
    coupling: Literal["independent", "chained"]
    latent: Whole  # uniform numbers that G gets beside x_t

    @model_validator(mode="after")
    def _a_pair_is_of_one_path(self) -> ToyMethod:
        if self.discriminator_input == "joint" and self.coupling == "independent":
            raise Refused("coupling", self.coupling, "chained, as D sees the pair (x_s, x_t) with discriminator_input=joint")
        return self


@dataclass(config=SECTION)
class Toy:
    """Every method with every number of trained denoising steps is an arm; all seeds of an arm train at once."""

    methods: Annotated[list[ToyMethod], Field(min_length=1)]
    trained_steps: Counts  # T
    seeds: Count
    schedule: Literal["cosine", "stable_diffusion"]
    width: Count
    frequencies: Whole  # Fourier features of the coordinates, octaves; 0 for none
    updates: Count
    batch_size: Count  # of each seed
    generator_learning_rate: Number
    discriminator_learning_rate: Number
    beta1: Decay
    beta2: Decay
    ema_decay: Decay
    reconstruction_weight: Number  # lambda_KL
    r1_weight: Number  # with respect to x_s
    r1_interval: Count
    samples: Count  # of each seed and number of sampling steps
    transport_samples: Count  # of them for the Wasserstein distance, whose cost grows with the cube

    @model_validator(mode="after")
    def _arms_can_be(self) -> Toy:
        for i, steps in enumerate(self.trained_steps):
            if TOY_TIMESTEPS % steps:
                raise Refused(f"trained_steps[{i}]", steps, f"divisors of {TOY_TIMESTEPS}")
        names = [method.name for method in self.methods]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise Refused(f"methods[{i}].name", name, f"a name that is not there twice, as in {', '.join(names)}")
        return self
