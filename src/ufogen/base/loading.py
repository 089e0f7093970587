"""Stable Diffusion checkpoints as the base: a hub id, a diffusers folder, or one .safetensors file of the original layout.

Everything that can be read from the configurations and the file's header is checked before any weight is loaded.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from ufogen import config
from ufogen.base.models import Pipeline, require_parts
from ufogen.diffusion.networks import VAE_FACTOR
from ufogen.diffusion.prediction import PREDICTION_TYPES
from ufogen.errors import UserError

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
SDXL_WEIGHTS = WEIGHTS | {"text_encoder_2": "model"}
KINDS = {"StableDiffusionPipeline": StableDiffusionPipeline, "StableDiffusionXLPipeline": StableDiffusionXLPipeline}
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# U-Nets with one of these take more than x_t, t and token states
FURTHER_INPUTS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
# the original layout: which part a weight belongs to, and the two weights whose shapes tell the U-Nets apart
ORIGINAL = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
SDXL_ORIGINAL = ORIGINAL | {"text_encoder": "conditioner.embedders.0.", "text_encoder_2": "conditioner.embedders.1."}
ORIGINAL_INPUT = "model.diffusion_model.input_blocks.0.0.weight"  # (width, in_channels, 3, 3)
ORIGINAL_STATES = (
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"  # (width, cross_attention_dim)
)
SDXL_ORIGINAL_STATES = ORIGINAL_STATES.replace("blocks.1.1", "blocks.4.1")  # its first level has no attention


@dataclass(frozen=True)
class Family:
    """What tells a line of checkpoints from another, and whose configuration its single files take."""

    name: str
    width: int  # of the token states
    hub_id: str
    kind: str = "StableDiffusionPipeline"


FAMILIES = {
    "sd15": Family("Stable Diffusion 1", 768, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "sd21": Family("Stable Diffusion 2", 1024, "stabilityai/stable-diffusion-2-1"),
    "sdxl": Family("Stable Diffusion XL", 2048, "stabilityai/stable-diffusion-xl-base-1.0", "StableDiffusionXLPipeline"),
}


def load_checkpoint(base: config.Base) -> Pipeline:
    """The pipeline at `base.path` in float32, with its own scheduler and scaling factor, without a safety checker.

    `base.source` is sd15, sd21, sdxl or, for any StableDiffusionPipeline or StableDiffusionXLPipeline, diffusers. Raises
    `UserError` where something is missing or does not fit.
    """
    family, path = FAMILIES.get(base.source), Path(base.path)
    if path.is_file():
        return _load_file(path, base, family)
    folder = path if path.is_dir() else fetch(base.path, "base.path", weights=True, allow_pickle=base.allow_pickle)
    name = f"base.path {base.path}"
    found = check_configuration(folder, name, family)
    check_weights(folder, name, base.allow_pickle)
    settings = {"local_files_only": True, "use_safetensors": None if base.allow_pickle else True}
    return _load(name, _kind(found), "from_pretrained", folder, **settings)


def fetch(hub_id: str, key: str, *, weights: bool, allow_pickle: bool = False) -> Path:
    """The folder of a hub's model in the local cache, downloaded where it is missing. `key` names the parameter in errors."""
    if not HUB_ID.fullmatch(hub_id):
        raise UserError(f"{key} {hub_id} does not exist; allowed: a folder, a .safetensors file, or a hub id OWNER/NAME")
    wanted = ["model_index.json", "*/*.json", "*/*.txt"]
    if weights:
        endings = ("safetensors", "bin") if allow_pickle else ("safetensors",)
        wanted += [f"{part}/*.{ending}" for part in SDXL_WEIGHTS for ending in endings]
    try:
        # half-precision and averaged doubles stand beside the weights that are loaded
        return Path(snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=["*.fp16.*", "*.non_ema.*"]))
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(f"{key} {hub_id} is not in the hub cache and cannot be fetched: {_first_line(error)}") from error


def check_configuration(folder: Path, name: str, family: Family | None) -> dict[str, dict[str, Any]]:
    """The configurations of a diffusers folder by part. Raises `UserError` where they cannot make a base together."""
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{name} is not a diffusers folder: it has no model_index.json")
    kind = _read(folder / "model_index.json")["_class_name"]
    wanted = family.kind if family else kind if kind in KINDS else "StableDiffusionPipeline"
    sdxl = wanted == "StableDiffusionXLPipeline"
    if not sdxl and ((folder / "text_encoder_2").is_dir() or "XL" in kind):
        needed = family.name if family else f"a {wanted}"
        raise UserError(f"{name} is a {kind} with a second text encoder, as SDXL has; {needed} is needed")
    if kind != wanted:
        raise UserError(f"{name} is a {kind}; a {wanted} is needed")
    require_parts(folder, name, wanted)
    for part in ("tokenizer", "tokenizer_2") if sdxl else ("tokenizer",):
        if not any((folder / part / file).is_file() for file in VOCABULARIES):
            raise UserError(f"{name} lacks the {part}'s vocabulary: {' or '.join(VOCABULARIES)} is needed")
    found = {part: _read(folder / part / "config.json") for part in (SDXL_WEIGHTS if sdxl else WEIGHTS)}
    found["scheduler"] = _read(folder / "scheduler" / "scheduler_config.json")
    _check_fit(name, family, found)
    prediction_type = found["scheduler"].get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise UserError(f"{name} predicts {prediction_type!r}; allowed: {', '.join(PREDICTION_TYPES)}")
    if found["scheduler"].get("rescale_betas_zero_snr"):
        raise UserError(f"{name} has rescale_betas_zero_snr, at which x_0 is not defined from noise: set it to false")
    return found


def check_weights(folder: Path, name: str, allow_pickle: bool) -> None:
    """Raise `UserError` where a part has no weights, or only pickled ones, which run code when they are opened."""
    for part, stem in (SDXL_WEIGHTS if (folder / "text_encoder_2").is_dir() else WEIGHTS).items():
        files = {path.name for path in (folder / part).iterdir()}
        if any(re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.safetensors", file) for file in files):
            continue
        pickled = any(file.endswith(".bin") for file in files)
        if not pickled:
            raise UserError(f"{name} lacks the weights of its {part}: {part}/{stem}.safetensors is needed")
        if not allow_pickle:
            raise UserError(
                f"{name} has only pickled weights in {part}, which can run code when opened: convert them to safetensors, "
                "or set base.allow_pickle=true if you trust them"
            )


def check_original(path: Path, name: str, expected: dict[str, Any], sdxl: bool = False) -> None:
    """Compare the header of a single file with its U-Net's configuration. Raises `UserError` where they differ."""
    parts, prompt_embeds = (SDXL_ORIGINAL, SDXL_ORIGINAL_STATES) if sdxl else (ORIGINAL, ORIGINAL_STATES)
    try:
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
            shapes = {key: file.get_slice(key).get_shape() for key in (ORIGINAL_INPUT, prompt_embeds) if key in keys}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{name} cannot be read as safetensors: {_first_line(error)}") from error
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


def _check_fit(name: str, family: Family | None, found: dict[str, dict[str, Any]]) -> None:
    unet, latent_channels, width = found["unet"], found["vae"]["latent_channels"], found["text_encoder"]["hidden_size"]
    further = [key for key in FURTHER_INPUTS if unet.get(key)]
    if "text_encoder_2" in found:
        _check_sdxl(name, found)
        width += found["text_encoder_2"]["hidden_size"]
        further = [key for key in further if key != "addition_embed_type"]
    if further:
        raise UserError(f"{name} has a U-Net with {', '.join(further)}: one that takes latents, t and text alone is needed")
    for key in ("in_channels", "out_channels"):
        if unet[key] != latent_channels:
            raise UserError(
                f"{name} has a U-Net with {key} {unet[key]}, its VAE has {latent_channels} latent channels: a "
                "text-to-image model is needed, not one for inpainting, depth or editing"
            )
    if unet["cross_attention_dim"] != width:
        raise UserError(
            f"{name} has a U-Net for prompt_embeds of width {unet['cross_attention_dim']}, its text encoder's are {width}"
        )
    if family and width != family.width:
        raise UserError(f"{name} has token states of width {width}; {family.name} has {family.width}")


def _check_sdxl(name: str, found: dict[str, dict[str, Any]]) -> None:
    unet, pooled = found["unet"], found["text_encoder_2"]["projection_dim"]
    if unet.get("addition_embed_type") != "text_time":
        added = unet.get("addition_embed_type")
        raise UserError(f"{name} has a U-Net with addition_embed_type {added}; SDXL's, text_time, is needed")
    time_ids = 6 * unet["addition_time_embed_dim"]  # of sizes and crop
    embedded = unet["projection_class_embeddings_input_dim"] - time_ids
    if embedded != pooled:
        raise UserError(f"{name} has a U-Net for pooled states of width {embedded}, its second text encoder's are {pooled}")
    factor = 2 ** (len(found["vae"]["block_out_channels"]) - 1)
    if factor != VAE_FACTOR:
        raise UserError(f"{name} has a VAE that shrinks images {factor} times; SDXL's, {VAE_FACTOR} times, is needed")


def _load_file(path: Path, base: config.Base, family: Family | None) -> Pipeline:
    name = f"base.path {path}"
    if path.suffix != ".safetensors":
        raise UserError(f"{name} is a {path.suffix or 'nameless'} file; allowed: .safetensors, which cannot run code")
    described = base.config or (family.hub_id if family else "")
    if not described:
        raise UserError(f"{name} is a single file: name the folder of its configuration as base.config")
    folder = Path(described) if Path(described).is_dir() else fetch(described, "base.config", weights=False)
    found = check_configuration(folder, f"base.config {described}", family)
    check_original(path, name, found["unet"], "text_encoder_2" in found)
    return _load(name, _kind(found), "from_single_file", str(path), config=str(folder), local_files_only=True)


def _kind(found: dict[str, dict[str, Any]]) -> type[Pipeline]:
    return KINDS["StableDiffusionXLPipeline" if "text_encoder_2" in found else "StableDiffusionPipeline"]


def _load(name: str, kind: type[Pipeline], how: str, source: Any, **settings: Any) -> Pipeline:
    sdxl = kind is StableDiffusionXLPipeline
    if sdxl:
        settings |= {"add_watermarker": False}
    else:
        settings |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline = getattr(kind, how)(source, torch_dtype=torch.float32, **settings)
    except Exception as error:  # diffusers and transformers raise many kinds for damaged files
        raise UserError(f"{name} cannot be loaded: {_first_line(error)}") from error
    parts = SDXL_WEIGHTS if sdxl else WEIGHTS
    absent = [part for part in parts if any(p.is_meta for p in getattr(pipeline, part).parameters())]
    if absent:
        raise UserError(f"{name} lacks some weights of its {', '.join(absent)}")
    return pipeline


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
