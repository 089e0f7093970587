"""Stable Diffusion checkpoints as the base: a hub id, a diffusers folder, or one .safetensors file of the original layout.

Everything that can be read from the configurations and the file's header is checked before any weight is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from ufogen import config
from ufogen.base.configuration import FAMILIES, NETWORKS, SDXL, Family, check_configuration, check_square, weights_variant
from ufogen.base.loading import NO_CHECKER, Pipeline, load_pipeline, naming
from ufogen.errors import UserError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# the original layout: which part a weight belongs to, and the two weights whose shapes tell the U-Nets apart
ORIGINAL = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
SDXL_ORIGINAL = ORIGINAL | {"text_encoder": "conditioner.embedders.0.", "text_encoder_2": "conditioner.embedders.1."}
ORIGINAL_INPUT = "model.diffusion_model.input_blocks.0.0.weight"  # (width, in_channels, 3, 3)
ORIGINAL_STATES = (
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"  # (width, cross_attention_dim)
)
SDXL_ORIGINAL_STATES = ORIGINAL_STATES.replace("blocks.1.1", "blocks.4.1")  # its first level has no attention


def load_checkpoint(base: config.Base) -> Pipeline:
    """The pipeline at `base.path` in float32, with its own scheduler and scaling factor, without a safety checker.

    `base.source` is sd15, sd21, sdxl or, for any StableDiffusionPipeline or StableDiffusionXLPipeline, diffusers. Raises
    `UserError` where something is missing or does not fit.
    """
    family, path = FAMILIES.get(base.source), Path(base.path)
    if path.is_file():
        pipeline = _load_file(path, base, family)
    else:
        name = f"base.path {base.path}"
        folder = path if path.is_dir() else _fetch_weights(base)
        check_square(name, check_configuration(folder, name, family))
        pipeline = load_pipeline(folder, name, family, allow_pickle=base.allow_pickle)
    size = pipeline.unet.config.sample_size
    if not isinstance(size, int):  # a square as height and width
        pipeline.unet.register_to_config(sample_size=size[0])
    return pipeline


def fetch(hub_id: str, key: str, weights: tuple[str, ...] = (), ignored: tuple[str, ...] = ()) -> Path:
    """The folder of a hub's model in the local cache, downloaded where it is missing: its configurations and these files.

    `key` names the parameter in errors.
    """
    if not HUB_ID.fullmatch(hub_id):
        raise UserError(f"{key} {hub_id} does not exist; allowed: a folder, a .safetensors file, or a hub id OWNER/NAME")
    wanted = ["model_index.json", "*/*.json", "*/*.txt", *weights]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=list(ignored)))
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(f"{key} {hub_id} is not in the hub cache and cannot be fetched: {_first_line(error)}") from error


def check_original(path: Path, name: str, expected: dict[str, Any], sdxl: bool = False) -> None:
    """Compare the header of a single file with its U-Net's configuration. Raises `UserError` where they differ."""
    parts, prompt_embeds = (SDXL_ORIGINAL, SDXL_ORIGINAL_STATES) if sdxl else (ORIGINAL, ORIGINAL_STATES)
    with naming(name), safe_open(path, "pt") as file:
        keys = list(file.keys())
        shapes = {key: file.get_slice(key).get_shape() for key in (ORIGINAL_INPUT, prompt_embeds) if key in keys}
    if not sdxl and any(key.startswith("conditioner.embedders.") for key in keys):
        raise UserError(f"{name} is an SDXL file: it has two text encoders; Stable Diffusion 1 or 2 is needed")
    if sdxl and any(key.startswith(ORIGINAL["text_encoder"]) for key in keys):
        raise UserError(f"{name} is a file of Stable Diffusion 1 or 2: it has one text encoder; SDXL is needed")
    missing = [part for part, prefix in parts.items() if not any(key.startswith(prefix) for key in keys)]
    if missing or len(shapes) < 2:
        lacking = ", ".join(missing or ["unet"])
        raise UserError(f"{name} lacks {lacking}: a whole checkpoint in Stable Diffusion's original layout is needed")
    for key, axis, setting in ((ORIGINAL_INPUT, 1, "in_channels"), (prompt_embeds, -1, "cross_attention_dim")):
        if shapes[key][axis] != expected[setting]:
            raise UserError(
                f"{name} has a U-Net with {setting} {shapes[key][axis]}, its configuration says {expected[setting]}: "
                "name another base.source or base.config"
            )


def _fetch_weights(base: config.Base) -> Path:
    """A hub's whole model; half-precision and averaged doubles beside the weights only where those are not there."""
    endings = ("safetensors", "bin") if base.allow_pickle else ("safetensors",)
    weights = tuple(f"{part}/*.{ending}" for part in NETWORKS for ending in endings)
    folder = fetch(base.path, "base.path", weights, ("*.fp16.*", "*.bf16.*", "*.non_ema.*"))
    try:
        for part in NETWORKS:
            if (folder / part).is_dir():
                weights_variant(folder / part, base.path, base.allow_pickle)
        return folder
    except UserError:
        return fetch(base.path, "base.path", weights, ("*.non_ema.*",))


def _load_file(path: Path, base: config.Base, family: Family | None) -> Pipeline:
    name = f"base.path {path}"
    if path.suffix != ".safetensors":
        raise UserError(f"{name} is a {path.suffix or 'nameless'} file; allowed: .safetensors, which cannot run code")
    described = base.config or (family.hub_id if family else "")
    if not described:
        raise UserError(f"{name} is a single file: name the folder of its configuration as base.config")
    folder = Path(described) if Path(described).is_dir() else fetch(described, "base.config")
    found = check_configuration(folder, f"base.config {described}", family)
    check_square(f"base.config {described}", found)
    kind = getattr(diffusers, found["index"]["_class_name"])
    check_original(path, name, found["unet"], kind.__name__ == SDXL)
    settings = {"add_watermarker": False} if kind.__name__ == SDXL else NO_CHECKER
    with naming(name):
        pipeline = kind.from_single_file(
            str(path), config=str(folder), local_files_only=True, torch_dtype=torch.float32, **settings
        )
    absent = [part for part in NETWORKS if any(p.is_meta for p in _parameters(pipeline, part))]
    if absent:
        raise UserError(f"{name} lacks some weights of its {', '.join(absent)}: a whole checkpoint is needed")
    return pipeline


def _parameters(pipeline: Pipeline, part: str) -> list[torch.Tensor]:
    return [*getattr(pipeline, part).parameters()] if hasattr(pipeline, part) else []


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
