"""Export the trained generator as a StableDiffusionPipeline folder."""

from __future__ import annotations

import shutil

from diffusers import UNet2DConditionModel

from ufogen import config
from ufogen.inference.export import export_pipeline, load_base
from ufogen.pipelines.stage import ARTIFACTS, publish, run


def main(c: config.Config) -> None:
    """Write artifacts/ufogen, which stock diffusers samples with `num_inference_steps=1, guidance_scale=0`.

    Trained adapters are in its weights, and beside them in `lora` as a file for the base.
    """
    unet = UNet2DConditionModel.from_pretrained(ARTIFACTS / "train" / "unet", local_files_only=True)
    with publish(ARTIFACTS / "ufogen") as out:
        export_pipeline(load_base(ARTIFACTS / "base"), unet, out)
        if (ARTIFACTS / "train" / "lora").is_dir():
            shutil.copytree(ARTIFACTS / "train" / "lora", out / "lora")


if __name__ == "__main__":
    run(main)
