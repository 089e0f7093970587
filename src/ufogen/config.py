"""Every parameter, typed. Stages read `params.yaml` through `load`; an unknown key or a bad value is an error that
names the key, the value and what is allowed. `experiments/` composes to the same tree."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from ufogen.errors import UserError
from ufogen.toy.settings import Toy

T = TypeVar("T")
Count = Annotated[int, "at least 1"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["no", "bf16", "fp16"]
ResizeFilter = Literal["box", "bilinear", "bicubic", "lanczos"]  # Pillow's, with antialiasing
Heads = Literal["output", "both"]
CocoSplit = Literal["train2014", "val2014", "train2017", "val2017"]


@dataclass
class Data:
    """Image-caption pairs: Nouns rendered by seed, LAION-style tar shards for training, or COCO for evaluation."""

    source: Literal["nouns", "webdataset", "coco"] = "nouns"
    train_size: Count = 16384  # Nouns: image-caption pairs that are encoded once
    evaluation_size: Count = 1000  # prompts, as many samples and as many reference images
    node_modules: str = "node_modules"
    tracked: str = (
        "node_modules/@nouns/assets/dist/image-data.json"  # file or folder whose change makes `dvc repro` prepare again
    )
    path: str = ""  # the folder of the shards (*.tar), or of COCO (annotations/ and the split's images)
    split: CocoSplit = "val2014"
    cache: bool = True  # shards: encode once to the disk, or in each batch anew
    resolution: int = 0  # pixels a side; 0: what the base was made for
    resize_filter: ResizeFilter = "lanczos"
    crop: Literal["center", "random"] = "center"  # random: drawn once for each image
    minimum_side: int = 0  # pixels of the shorter side; smaller images are left out
    maximum_aspect_ratio: float = 0.0  # longer side by shorter; 0: any
    minimum_score: float = 0.0  # 0: any; above it, pairs without a score are left out too
    score_key: str = "AESTHETIC_SCORE"  # in the pair's .json
    encode_batch_size: Count = 32  # shards: pairs that autoencoder and text encoder see at once
    encode_precision: Precision = "no"
    workers: Count = 4  # threads of each process that read and decode images


@dataclass
class AutoencoderRound:
    """A round of training that continues the one before: warm-up, then a cosine decay to nothing."""

    updates: Count = 7000
    learning_rate: float = 1.5e-3
    kl_weight: float = 3e-4
    absolute_error: bool = True  # beside the squared one; low-contrast detail weighs more in it


@dataclass
class Autoencoder:
    """Architecture and training of the AutoencoderKL (factor 4)."""

    channels: list[Count] = field(default_factory=lambda: [16, 32, 64])
    latent_channels: Count = 4
    rounds: list[AutoencoderRound] = field(default_factory=lambda: [AutoencoderRound()])
    batch_size: Count = 8
    warmup: int = 200
    precision: Precision = "bf16"


@dataclass
class Decoder:
    """Training of the decoder alone, on noisy latents and against a patch discriminator; the encoder stays."""

    updates: Count = 10000
    learning_rate: float = 1e-3
    batch_size: Count = 16
    warmup: int = 100
    latent_noise: float = 0.4  # scale of its standard deviation, which is drawn for each item
    adversarial_weight: float = 0.1
    adversarial_warmup: int = 500  # updates over which the weight rises from nothing
    discriminator_learning_rate: float = 5e-4
    discriminator_channels: Count = 32
    r1_weight: float = 1.0
    r1_interval: Count = 8
    ema_decay: float = 0.995


@dataclass
class DenoiserRound:
    """A round of training that continues the one before: warm-up, then a cosine decay to nothing."""

    updates: Count = 5120
    learning_rate: float = 8e-4
    batch_size: Count = 32  # over all processes
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    autoencoder_round: int = 0  # whose latents it learns, counted from 0


@dataclass
class Denoiser:
    """Architecture and training of the UNet2DConditionModel."""

    channels: list[Count] = field(default_factory=lambda: [64, 128, 128])
    heads: Count = 4
    caption_dropout: float = 0.1
    rounds: list[DenoiserRound] = field(default_factory=lambda: [DenoiserRound()])
    warmup: int = 300
    ema_decay: float = 0.999
    precision: Precision = "bf16"
    compile: bool = False
    chunk_size: Count = 32768  # fresh image-caption pairs that are rendered and encoded together ...
    passes: Count = 5  # ... and seen this often before the next chunk


@dataclass
class Pretrain:
    """The recipe of the released base."""

    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    denoiser: Denoiser = field(default_factory=Denoiser)
    decoder: Decoder = field(default_factory=Decoder)


@dataclass
class Base:
    """Where the pretrained model comes from."""

    source: Literal["released", "pretrained", "diffusers", "sd15", "sd21", "sdxl"] = "released"
    path: str = "models/nouns-sd"  # a folder; of Stable Diffusion also a hub id or a single .safetensors file
    config: str = ""  # of a single file: folder or hub id with its configuration; empty is the family's own hub id
    allow_pickle: bool = False  # read .bin weights, which can run code when opened
    tracked: str = "models/nouns-sd"  # file or folder whose change makes `dvc repro` initialize again


@dataclass
class Objective:
    """A point in the space of diffusion-GANs (objectives/diffusion_gan.py)."""

    parameterization: Literal["forward", "posterior"] = "forward"
    discriminator_input: Literal["marginal", "joint"] = "marginal"  # D sees x_s, or x_s and x_t
    reconstruction: Literal["x_0", "x_s", "forward_kl", "none"] = "x_0"
    gamma: Literal["snr", "truncated_snr", "min_snr", "kl", "constant"] = "snr"
    reconstruction_weight: float = 1.0  # lambda_KL
    coupling: Literal["independent", "chained"] = "independent"
    step_size: Count = 250  # k: s = t - k
    step_size_max: int = 0  # above step_size: k is drawn from step_size ... step_size_max for each item
    timesteps: Literal["grid", "uniform"] = "grid"
    minimum_timestep: int = 0  # t is drawn at or above it
    last_timestep_share: float = 0.0  # share of draws moved to t = T - 1, where one-step sampling starts
    adversarial: Literal["nonsaturating", "clamped_bce", "hinge"] = "nonsaturating"
    r1_weight: float = 1.0  # 0 turns R1 off
    r2_weight: float = 0.0  # the same penalty on generated samples (Mescheder et al. 2018); not the paper's
    r1_interval: Count = 16  # updates of D from one penalised to the next, R2 with R1
    r1_variable: Literal["x_s", "x_0"] = "x_s"  # what the gradient is taken in: the discriminator's input or clean data
    mismatched_share: float = 0.0  # of D's fakes that are real samples under another item's caption; not the paper's
    generator_init: Literal["base", "scratch"] = "base"
    discriminator_init: Literal["base", "scratch"] = "base"
    discriminator_heads: Heads = "output"  # both: D decides at its bottleneck too; not the paper's


@dataclass
class Trainer:
    """The optimisation of generator and discriminator."""

    updates: Count = 700
    batch_size: Count = 16  # of each process and micro-batch
    accumulation: Count = 1  # micro-batches of an update
    optimizer: Literal["adam", "adam8bit"] = "adam"  # adam8bit is that of bitsandbytes
    generator_lora_rank: int = 0  # 0 trains all weights
    discriminator_lora_rank: int = 0
    generator_learning_rate: float = 5e-5
    discriminator_learning_rate: float = 3e-4
    generator_interval: Count = 1  # G is updated at every n-th update, ...
    discriminator_interval: Count = 1  # ... D at every n-th
    beta1: float = 0.0
    beta2: float = 0.999
    warmup: int = 20
    decay: Literal["constant", "cosine"] = "cosine"
    gradient_clip: float = 1.0
    ema_decay: float = 0.99
    ema_device: Literal["accelerator", "cpu"] = "accelerator"  # where the average rests between updates
    checkpoint_every: Count = 100
    log_every: Count = 10
    sample_every: Count = 100
    validate_every: Count = 100
    validation_size: Count = 400  # prompts, and twice as many reference images
    keep: Literal["last", "best"] = "best"  # the averaged generator of the last update, or of the lowest validation KID
    precision: Precision = "no"
    compile: bool = False  # the U-Nets' repeated blocks
    gradient_checkpointing: bool = False  # activations are made again in the backward pass
    # what is divided over the processes: gradients, optimizer state and average (zero2), the weights too (full), or nothing
    sharding: Literal["none", "zero2", "full"] = "none"


@dataclass
class Sampler:
    """What is sampled for the comparison."""

    ufogen_steps: list[Count] = field(default_factory=lambda: [1, 2, 4])
    base_solvers: list[str] = field(default_factory=lambda: ["ddim", "dpm++"])
    base_steps: list[Count] = field(default_factory=lambda: [1, 2, 4, 8, 25])
    guidance: float = 2.0
    batch_size: Count = 50
    precision: Precision = "bf16"  # of every network of both models; `no` where the processor has no bfloat16
    grid_prompts: Count = 8


@dataclass
class Evaluation:
    """How the samples are measured."""

    kid_subset_size: Count = 500
    kid_subsets: Count = 100
    neighborhood: Count = 3
    latency_batch_size: Count = 16
    latency_repeats: Count = 11


@dataclass
class Ablations:
    """The ablation study: shorter runs than the main chain's, so that many arms fit into an afternoon of two cores."""

    arm: str = "ufogen"  # a file of experiments/ablation
    updates: Count = 200  # of every arm
    steps: list[Count] = field(default_factory=lambda: [1, 2, 4])  # of sampling
    evaluation_size: Count = 400  # prompts of the evaluation set
    curve_size: Count = 150  # prompts of the validation set, for quality against updates ...
    curve_every: Count = 50  # ... measured this often
    pictures: Count = 8  # kept of each arm
    toy_seeds: Count = 16  # of each of the claims' arms in two dimensions


@dataclass
class CocoSize:
    """Prompts of a split, and samples of each method; the published numbers are of these."""

    val2017: Count = 5000
    val2014: Count = 30000


@dataclass
class Coco:
    """The paper's zero-shot evaluation (pipelines/coco/dvc.yaml)."""

    folder: str = "datasets/coco"  # annotations/captions_SPLIT.json, and the images in SPLIT
    split: Literal["val2017", "val2014"] = "val2017"  # the stages of pipelines/coco/dvc.yaml set it
    size: CocoSize = field(default_factory=CocoSize)
    base: str = "artifacts/base"  # any Stable Diffusion folder: text encoder, autoencoder, and the base
    generator: str = "artifacts/ufogen"  # any folder whose `unet` is a generator trained from that base
    methods: list[str] = field(default_factory=lambda: ["ufogen", "dpm++"])  # ufogen, and the base's ddim and dpm++
    ufogen_steps: list[Count] = field(default_factory=lambda: [1, 2, 4])
    base_steps: list[Count] = field(default_factory=lambda: [8, 25])
    guidance: float = 3.0  # of the base
    batch_size: Count = 16  # samples of a shard, and images at a time in the metrics
    precision: Precision = "no"  # an epsilon network's rounding error counts 14.6 times at t = T
    inception_weights: str = ""  # a file; empty: torch-fidelity's own, downloaded once
    clip: list[str] = field(  # folders in transformers' layout, or names on the hub
        default_factory=lambda: ["laion/CLIP-ViT-g-14-laion2B-s12B-b42K", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"]
    )


@dataclass
class ControlTraining:
    """How long a control network is trained."""

    updates: Count = 1000
    learning_rate: float = 1e-3


@dataclass
class Applications:
    """Control by edges and image-to-image (pipelines/applications/dvc.yaml)."""

    controlnet: ControlTraining = field(default_factory=ControlTraining)
    adapter: ControlTraining = field(default_factory=ControlTraining)
    batch_size: Count = 32
    warmup: int = 50
    timesteps: Literal["uniform", "cubic"] = "cubic"  # cubic draws the late ones more often, as T2I-Adapter does
    caption_dropout: float = 0.1
    precision: Precision = "no"
    checkpoint_every: Count = 100
    log_every: Count = 10
    scale: float = 1.0  # what the control networks add is multiplied by it when sampling
    base_steps: Count = 25  # of DDIM
    samples: Count = 500  # images measured
    strengths: Count = 10  # of image-to-image: 1 / strengths ... 1


@dataclass
class Config:
    """The whole of params.yaml."""

    seed: int = 0
    device: Device = "auto"
    threads: Count = 2  # of torch on the CPU; results are bytewise the same only for the same number
    processes: Count = 2  # that train side by side; small networks gain more from them than from threads
    data: Data = field(default_factory=Data)
    base: Base = field(default_factory=Base)
    pretrain: Pretrain = field(default_factory=Pretrain)
    objective: Objective = field(default_factory=Objective)
    trainer: Trainer = field(default_factory=Trainer)
    sampler: Sampler = field(default_factory=Sampler)
    evaluation: Evaluation = field(default_factory=Evaluation)
    applications: Applications = field(default_factory=Applications)
    toy: Toy = field(default_factory=Toy)
    ablations: Ablations = field(default_factory=Ablations)
    coco: Coco = field(default_factory=Coco)


def load(path: str | Path = "params.yaml", overrides: list[str] | None = None) -> Config:
    """Read a YAML file and `key=value` overrides into a `Config`. Raises `UserError` on anything not allowed."""
    try:
        given = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides or []))
        tree = OmegaConf.to_container(given, resolve=True)
    except FileNotFoundError as error:
        raise UserError(f"parameter file {path} not found: run from the repository's root") from error
    except Exception as error:  # the YAML parser's exceptions share no base class with OmegaConf's
        raise UserError(f"parameter file {path} cannot be read: {error}") from error
    return build(Config, tree)


def to_dict(settings: Any) -> dict:
    """A section as a plain nested dictionary."""
    return asdict(settings)


def build(kind: type[T], tree: Any, prefix: str = "") -> T:
    """An instance of the dataclass `kind` from a nested dictionary; absent keys take their defaults.

    Raises `UserError` that names the key, the value and what is allowed.
    """
    if not isinstance(tree, dict):
        raise UserError(f"parameter {prefix.rstrip('.')} is {tree!r}, allowed is a section of keys")
    hints = get_type_hints(kind, include_extras=True)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            allowed = ", ".join(f.name for f in fields(kind))
            place = prefix.rstrip(".") or "the file"
            raise UserError(f"unknown parameter {prefix}{key}; allowed in {place} are {allowed}")
        hint, name = hints[key], prefix + str(key)
        values[key] = build(hint, value, name + ".") if is_dataclass(hint) else _check(hint, value, name)
    return kind(**values)


def _check(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        value = "no" if value is False and "no" in arguments else value  # YAML reads a bare no as false
        if value in arguments and not isinstance(value, bool):
            return value
        allowed = ", ".join(map(str, arguments))
    elif origin is list:
        if isinstance(value, list) and value:
            if is_dataclass(arguments[0]):
                return [build(arguments[0], item, f"{name}[{i}].") for i, item in enumerate(value)]
            return [_check(arguments[0], item, f"{name}[{i}]") for i, item in enumerate(value)]
        if is_dataclass(arguments[0]):
            allowed = "a list of sections"
        else:
            allowed = "a list of names" if arguments[0] is str else "a list of whole numbers, 1 or greater"
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
            return float(value)
        allowed = "a number, 0 or greater"
    elif hint in (int, Count):
        least = 1 if hint == Count else 0
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        allowed = f"a whole number, {least} or greater"
    elif isinstance(value, hint):
        return value
    else:
        allowed = {bool: "true or false", str: "text"}[hint]
    raise UserError(f"parameter {name} is {value!r}; allowed: {allowed}")
