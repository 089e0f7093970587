"""A batch as training gets it, and the items that an update makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass
class EncodedBatch:
    """`latents` (b, c, h, w), `prompt_embeds` (b, tokens, width), for SDXL `pooled_prompt_embeds` (b, p); float16 as stored.

    The order of the items means nothing, and may be that of the data set: whatever takes some of them has to draw them.
    """

    latents: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = field(default=None, kw_only=True)

    def on(self, device: torch.device | str) -> tuple[Tensor, dict[str, Tensor]]:
        """x_0 and the captions, float32 on the device. A caption is what the networks take by these names."""
        caption = {"prompt_embeds": self.prompt_embeds, "pooled_prompt_embeds": self.pooled_prompt_embeds}
        caption = {name: value.to(device, torch.float32) for name, value in caption.items() if value is not None}
        return self.latents.to(device, torch.float32), caption


@dataclass
class Items:
    """What an update draws for each of its b items, ready to be divided into micro-batches."""

    x_0: Tensor  # (b, c, h, w), as x_s, x_t and the noise
    x_s: Tensor
    x_t: Tensor
    t: Tensor  # (b,)
    s: Tensor
    noise: Tensor  # of x'_s
    pure: Tensor  # (b,), where x_t is noise alone
    caption: dict[str, Tensor]  # (b, ...) each
    caption_fake: dict[str, Tensor]  # the captions of D's fakes
    mismatched: Tensor  # (b,), where D's fake is a real sample under another item's caption

    def split(self, n: int) -> list[Items]:
        """n parts of b / n items."""
        return split(self, n)


def split(items: T, n: int) -> list[T]:
    """n parts of b / n items of a dataclass whose fields are tensors (b, ...) or dictionaries of them."""
    values = (getattr(items, field.name) for field in fields(items))
    return [type(items)(*part) for part in zip(*(_parts(value, n) for value in values), strict=True)]


def _parts(value: Tensor | dict[str, Tensor], n: int) -> list:
    if isinstance(value, Tensor):
        return list(value.chunk(n))
    parts = {name: tensor.chunk(n) for name, tensor in value.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(n)]
