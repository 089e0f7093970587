"""Go on training the base's denoiser on fresh pairs, the learning rate warmed up and lowered once more."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from ufogen import config
from ufogen.stages.common import ARTIFACTS, run
from ufogen.stages.pretrain_denoiser import train


def main(c: config.Config) -> None:
    """Write artifacts/pretrain/unet_refined."""
    model = UNet2DConditionModel.from_pretrained(ARTIFACTS / "pretrain" / "unet", local_files_only=True)
    train(c, model.train(), refine=True, name="unet_refined", label="unet_refined")


if __name__ == "__main__":
    run(main)
