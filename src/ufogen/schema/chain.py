"""The main chain: data, base, objective, training, sampling, evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ufogen.schema.kinds import (
    SECTION,
    CocoSplit,
    Count,
    Counts,
    Decay,
    Flag,
    Gamma,
    Heads,
    LogSigma,
    Number,
    Precision,
    Rank,
    Refused,
    ResizeFilter,
    Share,
    Side,
    Solver,
    Text,
    Threads,
    Whole,
)


@dataclass(config=SECTION)
class Data:
    """Image-caption pairs: Nouns rendered by seed, a folder of own pictures, LAION-style tar shards for training, or COCO for
    evaluation."""

    source: Literal["nouns", "folder", "webdataset", "coco"]
    train_size: Count  # Nouns: image-caption pairs that are encoded once
    evaluation_size: Count  # prompts, as many samples and as many reference images; of a folder they are not trained on
    node_modules: Text
    tracked: Text  # file or folder whose change makes `dvc repro` prepare again
    path: Text  # the folder of own pictures, of the shards (*.tar), or of COCO (annotations/ and the split's images)
    split: CocoSplit  # of COCO
    cache: Flag  # shards: encode once to the disk, or in each batch anew
    resolution: Side  # pixels a side; 0: what the base was made for, which a folder cannot know
    resize_filter: ResizeFilter
    crop: Literal["center", "random", "pad"]  # of the largest square; random: drawn once for each image; pad: all, on white
    broken: Literal["skip", "refuse"]  # an image that cannot be read or has no caption: left out and counted, or an error
    minimum_side: Whole  # pixels of the shorter side; smaller images are left out
    maximum_aspect_ratio: Number  # longer side by shorter; 0: any
    minimum_score: Number  # 0: any; above it, pairs without a score are left out too
    score_key: Text  # in the pair's .json, or in a folder's metadata.jsonl
    caption_key: Text  # the same, of the caption; empty: it is the pair's .txt, or `text` in metadata.jsonl
    encode_batch_size: Count  # shards: pairs that autoencoder and text encoder see at once
    encode_precision: Precision  # shards: of autoencoder and text encoder
    workers: Threads  # threads of each process that read and decode images


@dataclass(config=SECTION)
class Base:
    """Where the pretrained model comes from."""

    source: Literal["released", "pretrained", "diffusers", "sd15", "sd21", "sdxl"]
    path: Text  # a folder; of Stable Diffusion also a hub id or a single .safetensors file
    config: Text  # of a single file: folder or hub id with its configuration; empty is the family's own hub id
    allow_pickle: Flag  # read .bin weights, which can run code when opened
    tracked: Text  # file or folder whose change makes `dvc repro` initialize again


@dataclass(config=SECTION)
class Objective:
    """A point in the space of diffusion-GANs (diffusion/objective.py). `config.check_timesteps` holds it to a schedule."""

    parameterization: Literal["forward", "posterior"]
    discriminator_input: Literal["marginal", "joint"]  # D sees x_s, or x_s and x_t
    reconstruction: Literal["x_0", "x_s", "none"]
    gamma: Gamma
    reconstruction_weight: Number  # lambda_KL
    coupling: Literal["independent", "chained"]
    step_size: Count  # k: s = t - k
    step_size_max: Whole  # above step_size: k is drawn from step_size ... step_size_max for each item; 0: k is step_size
    timesteps: Literal["grid", "uniform"]
    minimum_timestep: Whole  # t is drawn at or above it
    entry_timestep: Whole  # t of one-step sampling, and the largest of training; 0: T - 1, as in the paper; others are ours
    entry_share: Share  # share of draws moved to the entry
    entry_noise: Literal["diffused", "pure"]  # x_t there: q(x_t|x_0), or ours: N(0, I), which has nothing to reconstruct
    # s of what D sees: t - k as in the paper; ours: uniform in s_low ... s_high, or log sigma_s ~ N(mean, std^2)
    s_law: Literal["step", "uniform", "lognormal"]
    s_low: Whole
    s_high: Whole
    s_log_sigma_mean: LogSigma  # sigma_s^2 = (1 - alpha_bar_s) / alpha_bar_s
    s_log_sigma_std: Number
    adversarial: Literal["nonsaturating", "clamped_bce", "relativistic"]  # relativistic is not the paper's
    r1_weight: Number  # 0 turns R1 off
    r2_weight: Number  # the same penalty on generated samples (Mescheder et al. 2018); not the paper's
    r1_interval: Count  # updates of D from one penalised to the next, R2 with R1
    r1_variable: Literal["x_s", "x_0"]  # what the gradient is taken in: the discriminator's input or clean data
    mismatched_share: Share  # of D's fakes that are real samples under another item's caption; not the paper's
    generator_init: Literal["base", "tuned", "scratch"]  # tuned: the base after `tuning`; not the paper's
    discriminator_init: Literal["base", "scratch"]
    discriminator_heads: Heads  # both: D decides at its bottleneck too; levels: at every level. Not the paper's
    discriminator_trained: Literal["all", "heads"]  # heads: the pretrained U-Net of D stays as it is; not the paper's
    statistics_group: Whole  # items over which D's heads see the standard deviation; 0: none, as in the paper

    @model_validator(mode="after")
    def _law_of_s_fits(self) -> Objective:
        if self.s_law == "step":
            return self
        for key, value in (("parameterization", "forward"), ("coupling", "independent")):
            if getattr(self, key) != value:  # q(x_s|x_t, x_0) and q(x_t|x_s) are there for s < t alone
                raise Refused(key, getattr(self, key), f"{value} with s_law {self.s_law}")
        if self.reconstruction == "x_s":
            raise Refused("reconstruction", "x_s", f"x_0, none with s_law {self.s_law}")
        if self.s_law == "uniform" and self.s_high < self.s_low:
            raise Refused("s_high", self.s_high, f"a whole number, {self.s_low} or greater")
        return self

    @model_validator(mode="after")
    def _largest_step_is_none_or_above_the_smallest(self) -> Objective:
        if self.step_size_max and self.step_size_max < self.step_size:
            raise Refused("step_size_max", self.step_size_max, f"0, or a whole number, {self.step_size} or greater")
        return self


@dataclass(config=SECTION)
class Tuning:
    """The base made consistent along its own ODE before UFOGen begins, where objective.generator_init is `tuned`. Ours."""

    updates: Count
    learning_rate: Number
    ema_decay: Decay  # of the average, which is the target and the result
    guidance: Number  # of the base, which gives the ODE
    skipping_step: Count  # from one timestep of it to the next
    entry_share: Share  # of draws that are pure noise at the entry
    huber_c: Number  # of the pseudo-Huber loss


@dataclass(config=SECTION)
class Trainer:
    """The optimisation of generator and discriminator."""

    updates: Count
    batch_size: Count  # of each process and micro-batch
    accumulation: Count  # micro-batches of an update
    optimizer: Literal["adam", "adam8bit"]  # adam8bit is that of bitsandbytes
    generator_lora_rank: Rank  # 0 trains all weights
    discriminator_lora_rank: Rank
    generator_learning_rate: Number
    discriminator_learning_rate: Number
    beta1: Decay
    beta2: Decay
    warmup: Whole
    discriminator_first: Whole  # updates of D alone, before G's first; not the paper's
    generator_warmup: Whole  # of G's learning rate, from its first update on
    decay: Literal["constant", "cosine"]
    gradient_clip: Number  # 0: none
    ema_decay: Decay
    ema_device: Literal["accelerator", "cpu"]  # where the average rests between updates
    checkpoint_every: Count
    log_every: Count
    sample_every: Count
    validate_every: Count
    validation_size: Count  # prompts, and twice as many reference images
    keep: Literal["last", "best"]  # the averaged generator of the last update, or of the lowest validation KID
    precision: Precision
    compile: Flag  # the U-Nets' repeated blocks
    gradient_checkpointing: Flag  # activations are made again in the backward pass
    # what is divided over the processes: gradients, optimizer state and average (zero2), the weights too (full), or nothing
    sharding: Literal["none", "zero2", "full"]


@dataclass(config=SECTION)
class Sampler:
    """What is sampled for the comparison."""

    ufogen_steps: Counts
    base_solvers: Annotated[list[Solver], Field(min_length=1)]
    base_steps: Counts
    guidance: Number  # of the base
    batch_size: Count
    grid_prompts: Count
    precision: Precision  # of every network of both models


@dataclass(config=SECTION)
class Evaluation:
    """How the samples are measured."""

    kid_subset_size: Count
    kid_subsets: Count
    neighborhood: Count
    latency_batch_size: Count
    latency_repeats: Count
