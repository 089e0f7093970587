"""Go on training the base's autoencoder, now with the absolute error too."""

from __future__ import annotations

from diffusers import AutoencoderKL

from ufogen import config
from ufogen.stages.common import ARTIFACTS, run
from ufogen.stages.pretrain_autoencoder import train


def main(c: config.Config) -> None:
    """Write artifacts/pretrain/vae_refined."""
    model = AutoencoderKL.from_pretrained(ARTIFACTS / "pretrain" / "vae", local_files_only=True)
    train(c, model, refine=True, name="vae_refined", label="vae_refined")


if __name__ == "__main__":
    run(main)
