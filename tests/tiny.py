"""The smallest real networks: two levels, 8 and 16 channels, with cross-attention. An update takes some 60 ms."""

import json
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.settings import make_distillation, make_objective, make_trainer
from ufogen import config
from ufogen.base.architectures import ARCHITECTURES
from ufogen.base.models import make_scheduler
from ufogen.diffusion.batch import EncodedBatch
from ufogen.diffusion.networks import Generator, make_networks
from ufogen.diffusion.schedule import Schedule
from ufogen.distillation.methods import make_method
from ufogen.training.distiller import Distiller
from ufogen.training.lora import add_lora
from ufogen.training.trainer import AdversarialTrainer

CHANNELS, SIZE, TOKENS, WIDTH = 4, 8, 8, 16
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a noun with red glasses and the head".split()


def schedule() -> Schedule:
    return Schedule.from_scheduler(make_scheduler("epsilon"))


def unet(seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        norm_num_groups=4,
    ).eval()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def latents(n: int, seed: int = 0) -> torch.Tensor:
    return normal(n, CHANNELS, SIZE, SIZE, seed=seed)


def prompt_embeds(n: int, seed: int = 1) -> torch.Tensor:
    return normal(n, TOKENS, WIDTH, seed=seed)


def batch(step: int, n: int = 4) -> EncodedBatch:
    """The encoded batch of an update: a pure function of its number, as `Encoded` is."""
    return EncodedBatch(latents(n, seed=2 * step).half(), prompt_embeds(n, seed=2 * step + 1).half())


def trainer(**changes) -> config.Trainer:
    defaults = {
        "updates": 4,
        "batch_size": 4,
        "warmup": 0,
        "generator_warmup": 0,
        "generator_learning_rate": 1e-3,
        "decay": "constant",
    }
    return make_trainer(**defaults | {"discriminator_learning_rate": 1e-3, "ema_decay": 0.5} | changes)


def task(
    objective: config.Objective | None = None, seed: int = 0, lora: tuple[int, int] = (0, 0), **changes
) -> AdversarialTrainer:
    """A diffusion-GAN on tiny networks, with adapters of the ranks `lora`; `changes` go to the trainer's settings."""
    objective = objective or make_objective()
    generator, discriminator = make_networks(unet(seed), schedule(), "epsilon", objective)
    for network, rank in zip((generator, discriminator), lora, strict=True):
        if rank:
            add_lora(network, rank)
    return AdversarialTrainer(generator, discriminator, schedule(), objective, trainer(**changes))


def distiller(method: str, seed: int = 0, settings: dict | None = None, guidance: float = 2.0, **changes) -> Distiller:
    """A distillation on tiny networks from one base; `seed` is of the student, `changes` go to the trainer's settings."""
    noise = schedule()
    made = make_method(make_distillation(method, **settings or {}), noise, "v_prediction")
    student, teacher = (Generator(unet(each), noise, "v_prediction") for each in (seed, 0))
    torch.manual_seed(0)
    task = Distiller(made, student, teacher, {"prompt_embeds": prompt_embeds(1, seed=9)}, guidance, trainer(**changes))
    student.train()
    return task


def pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """A whole StableDiffusionPipeline with a vocabulary of a few words."""
    denoiser = unet(seed)
    text = BertConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    encoder = BertModel(text, add_pooling_layer=False).eval()
    encoder.config.use_attention_mask = True
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=CHANNELS,
        norm_num_groups=4,
        sample_size=2 * SIZE,
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=encoder,
        tokenizer=BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=TOKENS),
        unet=denoiser,
        scheduler=make_scheduler("epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def flat(network: torch.nn.Module) -> torch.Tensor:
    """All weights of a network as one vector, copied."""
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def stable_diffusion(family: str = "sd15", seed: int = 0) -> StableDiffusionPipeline:
    """A narrow Stable Diffusion 1 or 2: their configuration keys, levels, layers and width of the token states, 32 px."""
    facts = ARCHITECTURES[family]
    torch.manual_seed(seed)
    narrow = {"sample_size": 4, "block_out_channels": (32, 32, 64, 64)}
    if family == "sd21":
        narrow["attention_head_dim"] = (2, 2, 4, 4)
    vae = {"sample_size": 32, "block_out_channels": (32, 32, 32, 32)}
    tokenizer = clip_tokenizer(facts["tokenizer"]["pad_token"])
    text = {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": len(tokenizer)}
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**facts["vae"] | vae).eval(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**facts["text_encoder"] | text)).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**facts["unet"] | narrow).eval(),
        scheduler=getattr(diffusers, facts["scheduler"]["_class_name"]).from_config(facts["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """A narrow SDXL: its configuration keys, levels, widths of the token and pooled states; 32 px, fewer layers."""
    facts = ARCHITECTURES["sdxl"]
    torch.manual_seed(seed)
    narrow = {"sample_size": 4, "block_out_channels": (32, 32, 64), "attention_head_dim": (2, 2, 4)}
    narrow |= {"transformer_layers_per_block": (1, 1, 2), "norm_num_groups": 8}  # of one picture the lowest level is 1 x 1
    vae = {"sample_size": 32, "block_out_channels": (32, 32, 32, 32)}
    tokenizers = [clip_tokenizer(facts[part]["pad_token"]) for part in ("tokenizer", "tokenizer_2")]
    text = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": len(tokenizers[0])}
    text["eos_token_id"] = len(tokenizers[0]) - 1  # where the pooled state is read
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**facts["vae"] | vae).eval(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**facts["text_encoder"] | text)).eval(),
        tokenizer=tokenizers[0],
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**facts["text_encoder_2"] | text)).eval(),
        tokenizer_2=tokenizers[1],
        unet=UNet2DConditionModel(**facts["unet"] | narrow).eval(),
        scheduler=getattr(diffusers, facts["scheduler"]["_class_name"]).from_config(facts["scheduler"]),
        add_watermarker=False,
    )


def clip_tokenizer(pad_token: str) -> CLIPTokenizer:
    """CLIP's tokenizer with its bytes and two merges of the 48,894."""
    pieces = [*bytes_to_unicode().values()]
    merges = [("r", "e"), ("re", "d</w>")]
    vocabulary = pieces + [f"{piece}</w>" for piece in pieces] + ["".join(pair) for pair in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges, pad_token=pad_token, model_max_length=77
    )


def save_as_published(pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline, folder: Path) -> None:
    """The diffusers folder in the published layout, whose tokenizers are vocab.json and merges.txt."""
    pipeline.save_pretrained(folder)
    for own in folder.glob("tokenizer*/tokenizer.json"):
        bpe = json.loads(own.read_text())["model"]
        own.unlink()
        (own.parent / "vocab.json").write_text(json.dumps(bpe["vocab"]))
        (own.parent / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, bpe["merges"]), ""]))
