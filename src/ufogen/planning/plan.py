"""What a training run takes, before it is paid for: parameters, memory by part, FLOPs, hours, and whether it fits.

Temporaries and the allocator's fragmentation are not counted; that a card has a little more than its nominal memory is the
room for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ufogen import config
from ufogen.base.architectures import ARCHITECTURES
from ufogen.base.text import prompt_tokens
from ufogen.compose import parameters
from ufogen.errors import UserError
from ufogen.planning.footprint import Kept, Networks, activations, flops


@dataclass(frozen=True)
class Gpu:
    """Nominal memory in bytes and dense peak FLOP/s of the maker's data sheet."""

    memory: float
    half: float
    single: float


GPUS = {
    "a100-40gb": Gpu(40e9, 312e12, 19.5e12),
    "a100-80gb": Gpu(80e9, 312e12, 19.5e12),
    "h100-80gb": Gpu(80e9, 989e12, 67e12),
    "h200-141gb": Gpu(141e9, 989e12, 67e12),
    "rtx4090-24gb": Gpu(24e9, 165e12, 82.6e12),
}


def composed(overrides: list[str]) -> config.Config:
    """The parameters that `dvc exp run -S ...` would compose. Raises `UserError` for what is not allowed."""
    return config.build(config.Config, parameters(overrides))


def flops_an_item(found: dict[str, int], o: config.Objective, tr: config.Trainer) -> float:
    """Mean FLOPs of an item in an update, with the penalties' interval.

    With accumulation G passes twice, for D and again for itself. Gradient checkpointing's passes are not counted: they are
    no progress, and utilisation is stated without them.
    """
    of_d = found["discriminator_forward"] + found["discriminator_backward"]
    of_d += found["penalty"] / o.r1_interval * ((o.r1_weight > 0) + (o.r2_weight > 0))
    of_g = found["generator_forward"] * (1 if tr.accumulation == 1 else 2) + found["generator_backward"]
    of_g += found["discriminator_for_generator"]
    if o.adversarial == "relativistic":
        of_g += found["discriminator_forward"] / 2  # on real samples alone
    return of_d + of_g


def make_plan(c: config.Config, gpus: int | None = None, gpu: str = "h100-80gb", mfu: float = 0.35) -> dict[str, Any]:
    """The whole plan as plain numbers: bytes, FLOPs, seconds. `mfu` is the share of the peak that is reached, an assumption.

    `gpus` share the micro-batch of all `c.processes` evenly; adapters are planned for as full weights.
    Raises `UserError` where they cannot share it, or for an unknown GPU or base.
    """
    if gpu not in GPUS:
        raise UserError(f"GPU {gpu!r} is unknown; allowed: {', '.join(GPUS)}")
    if not 0 < mfu <= 1:
        raise UserError(f"the share of the peak is {mfu}; allowed: above 0, at most 1")
    together, gpus = c.processes * c.trainer.batch_size, c.processes if gpus is None else gpus
    if gpus < 1 or together % gpus:
        raise UserError(f"{gpus} GPUs cannot share a batch of {together} evenly")
    if gpus == 1 and c.trainer.sharding != "none":
        raise UserError(f"parameter trainer.sharding is {c.trainer.sharding}; allowed with one GPU: none")
    precision = "bf16" if c.trainer.precision == "auto" else c.trainer.precision  # all of these cards compute in it
    batch, half, card = together // gpus, precision != "no", GPUS[gpu]
    together *= c.trainer.accumulation
    parts = architecture(c.base)
    tokens = 77 if _clip(parts) else prompt_tokens(Path(c.base.path))
    with FakeTensorMode():
        networks = Networks(parts["unet"], tokens, c.objective)
        counts = {name: _count(getattr(networks, name)) for name in ("generator", "discriminator")}
        counts |= _encoder_counts(parts)
        kept = activations(networks, half)
        counted = flops(networks)
    penalized = c.objective.r1_weight + c.objective.r2_weight > 0
    states = state_bytes(counts["generator"], counts["discriminator"], gpus, c.trainer.sharding, penalized)
    item = flops_an_item(counted, c.objective, c.trainer)
    rate = gpus * mfu * (card.half if half else card.single) / item
    report = {
        "base": c.base.source, "latents": list(networks.shape), "tokens": networks.states[0], "precision": precision,
        "gpus": gpus, "gpu": gpu, "gpu_bytes": card.memory, "batch": together, "batch_a_gpu": batch,
        "updates": c.trainer.updates, "parameters": counts, "state_bytes": states,
        "encoder_bytes": 4 * sum(counts.get(name, 0) for name in ("vae", "text_encoder", "text_encoder_2")),
        "flops_an_item": counted | {"update": item}, "mfu": mfu, "images_a_second": rate,
        "hours": c.trainer.updates * together / rate / 3600,
    }  # fmt: skip
    return report | {mode: memory(found, sum(states.values()), batch, card.memory, penalized) for mode, found in kept.items()}


def state_bytes(
    generator: int, discriminator: int, gpus: int, sharding: str = "none", r1: bool = True
) -> dict[str, int | float]:
    """Bytes of what stays from update to update, in float32: Adam keeps two values a parameter, the average is G's alone.

    DistributedDataParallel keeps the gradients once more in its buckets. Sharded, each GPU has its part of everything, and
    whole weights beside it while they are needed: with zero2 those of both networks, with full those of D for R1, and else a
    block's, which is not counted.
    """
    both = 4 * (generator + discriminator)
    if sharding != "none":
        parts = {name: size / gpus for name, size in state_bytes(generator, discriminator, 1).items()}
        return parts | {"gathered_weights": both if sharding == "zero2" else 4 * discriminator * r1}
    buckets = {"gradient_buckets": both} if gpus > 1 else {}
    return {"weights": both, "gradients": both, "optimizer": 2 * both, "average": 4 * generator} | buckets


def memory(kept: dict[str, Kept], states: int, batch: int, room: float, r1: bool) -> dict[str, Any]:
    """The peak of an update: G's activations beside D's, in the updates with R1 also those of the penalty."""

    def peak(size: int) -> float:
        of_d = kept["discriminator"].at(size) + (kept["penalty"].at(size) if r1 else 0)
        return kept["generator"].at(size) + max(of_d, kept["discriminator_for_generator"].at(size))

    one, two = peak(1), peak(2)
    largest = int((room - states - (2 * one - two)) // (two - one))
    return {
        "activation_bytes": {name: value.at(batch) for name, value in kept.items()},
        "bytes": states + peak(batch),
        "fits": states + peak(batch) <= room,
        "largest_batch_a_gpu": max(largest, 0),
    }


def architecture(base: config.Base) -> dict[str, dict[str, Any]]:
    """The configurations of a base's networks: known for Stable Diffusion, read from the folder of another."""
    if base.source in ARCHITECTURES:
        return ARCHITECTURES[base.source]
    found = {}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        path = Path(base.path) / part / "config.json"
        if path.is_file():
            found[part] = json.loads(path.read_text())
    if "unet" not in found:
        raise UserError(
            f"base.path {base.path} has no unet/config.json; allowed: a diffusers folder, {', '.join(ARCHITECTURES)}"
        )
    return found


def _clip(parts: dict[str, dict[str, Any]]) -> bool:
    return "hidden_act" in parts.get("text_encoder", {}) and parts["text_encoder"]["max_position_embeddings"] == 77


def _encoder_counts(parts: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Parameters of what encodes images and captions, needed beside training only where that happens on the fly."""
    counts = {}
    if "vae" in parts:
        counts["vae"] = _count(AutoencoderKL.from_config(parts["vae"]))
    if _clip(parts):
        counts["text_encoder"] = _count(CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])))
    if "text_encoder_2" in parts:
        counts["text_encoder_2"] = _count(CLIPTextModelWithProjection(CLIPTextConfig(**parts["text_encoder_2"])))
    return counts


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def described(r: dict[str, Any]) -> str:
    """The plan as text; GB is 10^9 bytes."""
    per, both = r["flops_an_item"], ("all", "checkpointed")
    lines = [
        f"{r['base']}: latents {' x '.join(map(str, r['latents']))}, {r['tokens']} tokens, precision {r['precision']}",
        "parameters: " + ", ".join(f"{name} {count:,}" for name, count in r["parameters"].items()),
        "",
        f"GB on each of {r['gpus']} {r['gpu']}, {r['batch_a_gpu']} of {r['batch']} items  activations kept  checkpointed",
    ]
    lines += [_row(name, size, size) for name, size in r["state_bytes"].items()]
    lines += [
        _row(f"activations: {name}", *(r[mode]["activation_bytes"][name] for mode in both))
        for name in r["all"]["activation_bytes"]
    ]
    lines += [
        _row("peak", *(r[mode]["bytes"] for mode in both)),
        _row("memory of the card", r["gpu_bytes"], r["gpu_bytes"]),
        f"{'fits':<58}{_yes(r['all']['fits']):>13}{_yes(r['checkpointed']['fits']):>14}",
        f"{'largest batch a GPU that fits':<58}"
        + "".join(f"{r[mode]['largest_batch_a_gpu']:>{13 + i}}" for i, mode in enumerate(both)),
        "The peak is the states, G's activations and the larger of D's (with R1's penalty) and D's for G.",
    ]
    if r["encoder_bytes"]:
        lines.append(
            f"Encoding on the fly adds {r['encoder_bytes'] / 1e9:.2f} GB of weights; this repository encodes once, beforehand."
        )
    return "\n".join(
        [
            *lines,
            "",
            "TFLOPs an item: " + ", ".join(f"{name} {count / 1e12:.3f}" for name, count in per.items()),
            f"at {r['mfu']:.0%} of the peak rate (an assumption): {r['images_a_second']:.1f} images a second, "
            f"{r['updates']} updates in {r['hours']:.1f} hours, if the batch fits",
        ]
    )


def _row(name: str, *sizes: float) -> str:
    return f"{name:<58}" + "".join(f"{size / 1e9:>{13 + i}.2f}" for i, size in enumerate(sizes))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
