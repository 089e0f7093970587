"""What a diffusers folder says of itself, checked before a weight is read: its parts, how they fit, and its noise schedule."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import transformers

from ufogen.diffusion.networks import VAE_FACTOR
from ufogen.diffusion.prediction import PREDICTION_TYPES
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError

SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
PARTS = {SD: ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
PARTS[SDXL] = (*PARTS[SD], "text_encoder_2", "tokenizer_2")  # what else an index lists, such as a safety checker, is not used
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
VARIANTS = (None, "fp16", "bf16")  # a part's weights in this order of preference; None: those without a suffix
WEIGHT_FILE = r"(?:diffusion_pytorch_model|(?:pytorch_)?model)(?:\.(\w+))?(?:-\d+-of-\d+)?\."
# U-Nets with one of these take more than x_t, t and prompt_embeds
FURTHER_INPUTS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")

Configurations = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """What tells a line of checkpoints from another, and whose configuration its single files take."""

    name: str
    width: int  # of the prompt_embeds
    hub_id: str
    kind: str = SD


FAMILIES = {
    "sd15": Family("Stable Diffusion 1", 768, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "sd21": Family("Stable Diffusion 2", 1024, "stabilityai/stable-diffusion-2-1"),
    "sdxl": Family("Stable Diffusion XL", 2048, "stabilityai/stable-diffusion-xl-base-1.0", SDXL),
}


def check_configuration(folder: Path, name: str, family: Family | None = None) -> Configurations:
    """The configurations of a diffusers folder by part, with its `model_index.json` as `index`.

    Raises `UserError`, which calls the folder `name`, where they cannot make a StableDiffusionPipeline or a
    StableDiffusionXLPipeline together, of that family if one is given.
    """
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{name} is not a diffusers folder: it has no model_index.json")
    index = read_json(folder / "model_index.json", name)
    kind = _check_kind(folder, name, index.get("_class_name"), family)
    missing = [part for part in PARTS[kind] if not (folder / part).is_dir()]
    if missing:
        raise UserError(f"{name} lacks {', '.join(missing)}: a whole {kind} is needed")
    found = {"index": index}
    for part in PARTS[kind]:
        class_of(index, part, name)
        if part.startswith("tokenizer"):
            if not any((folder / part / file).is_file() for file in VOCABULARIES):
                raise UserError(f"{name} lacks the {part}'s vocabulary: {' or '.join(VOCABULARIES)} is needed")
        else:
            file = "scheduler_config.json" if part == "scheduler" else "config.json"
            found[part] = read_json(folder / part / file, name)
    _check_fit(name, family, found)
    _check_scheduler(name, class_of(index, "scheduler", name), found["scheduler"])
    return found


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON file's object. Raises `UserError` where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name} cannot be loaded: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} cannot be loaded: {path} holds {type(content).__name__}, not an object of settings")
    return content


def class_of(index: dict[str, Any], part: str, name: str) -> type:
    """The class that model_index.json names for a part. Raises `UserError` where it is none of diffusers' or transformers'."""
    entry = index.get(part)
    library, kind = entry if isinstance(entry, list) and len(entry) == 2 else (None, entry)
    wanted = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}.get(part, kind)
    needed = diffusers if part in ("unet", "vae", "scheduler") else transformers
    if library == needed.__name__ and kind == wanted and hasattr(needed, str(kind)):
        return getattr(needed, kind)
    allowed = wanted if part in ("unet", "vae") else f"a class of {needed.__name__}"
    raise UserError(f"{name} cannot be loaded: its model_index.json names {entry} as {part}; allowed: {allowed}")


def weights_variant(folder: Path, name: str, allow_pickle: bool) -> str | None:
    """Which of a part's weight files are read: None for those without a suffix, else fp16 or bf16, where they stand alone.

    Raises `UserError` where there are none, or only pickled ones, which run code when they are opened.
    """
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def variants(ending: str) -> set[str | None]:
        matches = (re.fullmatch(WEIGHT_FILE + ending, file) for file in files)
        return {match[1] for match in matches if match}

    for ending in ("safetensors", "bin") if allow_pickle else ("safetensors",):
        for variant in VARIANTS:
            if variant in variants(ending):
                return variant
    part, stem = folder.name, "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    if variants("bin"):
        raise UserError(
            f"{name} has only pickled weights in {part}, which can run code when opened: convert them to safetensors, "
            "or set base.allow_pickle=true if you trust them"
        )
    others = [f"{stem}.{variant}.safetensors" for variant in sorted(variants("safetensors") - set(VARIANTS))]
    beside = f"; {others[0]} is there: rename it if it is meant" if others else ""
    raise UserError(f"{name} lacks the weights of its {part}: {part}/{stem}.safetensors is needed{beside}")


def check_sample_size(name: str, size: Any) -> None:
    """Raise `UserError` where a U-Net's `sample_size` is neither the latent's side nor its height and width."""
    sides = size if isinstance(size, (list, tuple)) and len(size) == 2 else [size]
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise UserError(f"{name} has a U-Net with sample_size {json.dumps(size)}; allowed: the side of its latents, such as 64")


def check_square(name: str, found: Configurations) -> None:
    """Raise `UserError` where the model is for pictures of another shape than the data's, which are squares."""
    size = found["unet"]["sample_size"]
    if not isinstance(size, int) and size[0] != size[1]:
        raise UserError(f"{name} has a U-Net with sample_size {size}, which is no square; allowed: one side, such as {size[0]}")


def _check_kind(folder: Path, name: str, kind: Any, family: Family | None) -> str:
    wanted = family.kind if family else kind if kind in PARTS else SD
    if wanted != SDXL and ((folder / "text_encoder_2").is_dir() or "XL" in str(kind)):
        needed = family.name if family else f"a {wanted}"
        raise UserError(f"{name} is a {kind} with a second text encoder, as SDXL has; {needed} is needed")
    if kind != wanted:
        raise UserError(f"{name} is a {kind}; a {wanted} is needed")
    return kind


def _check_fit(name: str, family: Family | None, found: Configurations) -> None:
    def number(part: str, key: str) -> int:
        value = found[part].get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} has {part}/config.json with {key} {json.dumps(value)}; allowed: a whole number above 0")
        return value

    unet, latent_channels, width = found["unet"], number("vae", "latent_channels"), number("text_encoder", "hidden_size")
    further = [key for key in FURTHER_INPUTS if unet.get(key)]
    if "text_encoder_2" in found:
        _check_sdxl(name, found, number)
        width += number("text_encoder_2", "hidden_size")
        further = [key for key in further if key != "addition_embed_type"]
    if further:
        raise UserError(f"{name} has a U-Net with {', '.join(further)}: one that takes latents, t and text alone is needed")
    for key in ("in_channels", "out_channels"):
        if number("unet", key) != latent_channels:
            raise UserError(
                f"{name} has a U-Net with {key} {unet[key]}, its VAE has {latent_channels} latent channels: a "
                "text-to-image model is needed, not one for inpainting, depth or editing"
            )
    if number("unet", "cross_attention_dim") != width:
        raise UserError(
            f"{name} has a U-Net for prompt_embeds of width {unet['cross_attention_dim']}, its text encoder's are {width}"
        )
    if family and width != family.width:
        raise UserError(f"{name} has token states of width {width}; {family.name} has {family.width}")
    check_sample_size(name, unet.get("sample_size"))


def _check_sdxl(name: str, found: Configurations, number: Any) -> None:
    pooled, added = number("text_encoder_2", "projection_dim"), found["unet"].get("addition_embed_type")
    if added != "text_time":
        raise UserError(f"{name} has a U-Net with addition_embed_type {added}; SDXL's, text_time, is needed")
    time_ids = 6 * number("unet", "addition_time_embed_dim")  # of sizes and crop
    embedded = number("unet", "projection_class_embeddings_input_dim") - time_ids
    if embedded != pooled:
        raise UserError(f"{name} has a U-Net for pooled states of width {embedded}, its second text encoder's are {pooled}")
    levels = found["vae"].get("block_out_channels")
    factor = 2 ** (len(levels) - 1) if isinstance(levels, list) else 1
    if factor != VAE_FACTOR:
        raise UserError(f"{name} has a VAE that shrinks images {factor} times; SDXL's, {VAE_FACTOR} times, is needed")


def _check_scheduler(name: str, kind: type, settings: dict[str, Any]) -> None:
    """The method needs alpha_bar of each timestep, which a scheduler of flow matching or of bare sigmas does not have."""
    prediction_type = settings.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        raise UserError(f"{name} predicts {prediction_type!r}; allowed: {', '.join(PREDICTION_TYPES)}")
    if settings.get("rescale_betas_zero_snr"):
        raise UserError(f"{name} has rescale_betas_zero_snr, at which x_0 is not defined from noise: set it to false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Schedule.from_scheduler(kind.from_config(settings))
    except Exception as error:  # each scheduler of diffusers fails in its own way
        raise UserError(
            f"{name} has a scheduler that gives no noise schedule, {kind.__name__}; allowed: one with betas, such as "
            f"DDIMScheduler: {' '.join(str(error).split())}"
        ) from error
