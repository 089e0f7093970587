"""What an unfinished denoiser draws, and a snapshot that another machine can continue from."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ufogen.base.autoencoder import decode_latents
from ufogen.base.loading import load_part
from ufogen.base.models import make_scheduler
from ufogen.base.text import write_prompt_tokens
from ufogen.data.nouns import KINDS, Nouns
from ufogen.data.pairs import Pairs
from ufogen.diffusion.sampling import sample_base
from ufogen.errors import UserError
from ufogen.evaluation.exact import accuracy_by_kind, exact_measures, read
from ufogen.files import publish, record_hashes
from ufogen.pipelines.stage import table

STATE, CURVE = "state.json", "curve.csv"
HEAD = KINDS.index("head")
COLUMNS = (
    "images", "updates", "training_loss", "validation_loss", "residual", "residual_head_named", "residual_head_open",
    "attribute_accuracy", *(f"accuracy_{kind}" for kind in KINDS), "open_heads", "distinct_open_heads", "distinct_real",
)  # fmt: skip


@dataclass
class State:
    """How far a denoiser has come: `images` and `updates` over all stretches, the curve's rows so far, the settings."""

    images: int = 0
    updates: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    recipe: dict = field(default_factory=dict)


def draw(
    model: UNet2DConditionModel,
    vae: AutoencoderKL,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor,
    prediction_type: str,
    rng: torch.Generator,
    steps: int = 25,
    guidance: float = 2.0,
    batch_size: int = 50,
) -> np.ndarray:
    """Images (n, 32, 32, 3) uint8 for prompt_embeds (n, tokens, width): guided DPM-Solver++ from noise of `rng`."""
    shape = (len(prompt_embeds), model.config.in_channels, model.config.sample_size, model.config.sample_size)
    noise = torch.randn(shape, generator=rng)
    scheduler = make_scheduler(prediction_type).config
    latents = [
        sample_base(model, x, s.float(), negative_prompt_embeds, scheduler, steps, guidance, "dpm++")
        for x, s in zip(noise.split(batch_size), prompt_embeds.split(batch_size), strict=True)
    ]
    return decode_latents(torch.cat(latents), vae)


def measure(images: np.ndarray, pairs: Pairs, nouns: Nouns) -> dict[str, float]:
    """Distance in grey levels to the nearest characters, named attributes that are right, and the variety of open heads.

    distinct_real is what the real images of the same captions show, so the most that can be asked for.
    """
    reading = read(images, pairs.parts, pairs.mentioned, nouns)
    kinds = {f"accuracy_{kind}": value for kind, value in accuracy_by_kind(reading).items()}
    return exact_measures(reading) | kinds | {"distinct_real": len(set(pairs.parts[~pairs.mentioned[:, HEAD], HEAD].tolist()))}


def save_snapshot(folder: Path, average: UNet2DConditionModel, vae: AutoencoderKL, state: State) -> None:
    """Write the averaged denoiser and the autoencoder as float16 safetensors, with their hashes, the state and its curve.

    Adam's moments and the weights behind the average stay out: they are four times as large, and a warm-up makes them again.
    """
    with publish(folder) as out:
        for name, model in (("unet", average), ("vae", vae)):
            deepcopy(model).half().save_pretrained(out / name)  # from_config would lose a scaling factor set by training
        make_scheduler(state.recipe["prediction_type"]).save_pretrained(out / "scheduler")
        write_prompt_tokens(out, state.recipe["denoiser"]["max_length"])
        (out / STATE).write_text(json.dumps(asdict(state), indent=1) + "\n")
        (out / CURVE).write_text(table(state.curve, COLUMNS))
        record_hashes(out)


def load_snapshot(folder: str | Path) -> tuple[UNet2DConditionModel, AutoencoderKL, State]:
    """Denoiser and autoencoder (float32) and the state. Raises `UserError` where the folder is no snapshot."""
    folder = Path(folder)
    try:
        state = State(**json.loads((folder / STATE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        message = f"parameter pretrain.denoiser.resume is {str(folder)!r}, which is no snapshot: {str(error).splitlines()[0]}"
        raise UserError(message) from error
    parts = (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
    unet, vae = (load_part(kind, folder / part, f"snapshot {folder}") for part, kind in parts)
    return unet, vae, state
