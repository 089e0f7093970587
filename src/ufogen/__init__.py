"""A replication of UFOGen: one-step text-to-image generation with a diffusion-GAN (arXiv 2311.09257)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ufogen.inference.api import UFOGen

__all__ = ["UFOGen"]


def __getattr__(name: str):
    if name == "UFOGen":  # torch and diffusers take seconds to import
        from ufogen.inference.api import UFOGen

        return UFOGen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
