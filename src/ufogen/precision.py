"""What networks compute in. `auto` is bfloat16 where the processor or GPU has instructions for it, else float32.

Without them bfloat16 is emulated: a U-Net pass of 16 items then took twelve times the processor time of one in float32.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch

T = TypeVar("T")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARAMETERS = ("precision", "encode_precision")
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, x86 and ARM, as torch names them


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """`no`, `bf16` or `fp16`: what is given, or for `auto` what the device, which may be `auto` too, computes in."""
    if precision != "auto":
        return precision
    return "bf16" if computes_in_bfloat16(device) else "no"


def computes_in_bfloat16(device: torch.device | str) -> bool:
    """Whether the device has instructions for it; emulation does not count."""
    if str(device).startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(found.get(name, False) for name in INSTRUCTIONS)


def resolved(settings: T, device: str) -> T:
    """A section and all within it with every `auto` of a precision resolved; the very same where there is none."""
    changes = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            new = resolved(value, device)
        else:
            new = resolve_precision(value, device) if field.name in PARAMETERS else value
        if new is not value:
            changes[field.name] = new
    return replace(settings, **changes) if changes else settings
