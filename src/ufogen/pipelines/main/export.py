"""Export the trained generator as a StableDiffusionPipeline folder."""

from __future__ import annotations

import shutil

from ufogen import config
from ufogen.base.loading import Pipeline, load_base, load_generator
from ufogen.data.nouns import SIZE
from ufogen.inference.export import export_pipeline
from ufogen.pipelines.stage import ARTIFACTS, publish, run


def main(c: config.Config) -> None:
    """Write artifacts/ufogen, which stock diffusers samples with `num_inference_steps=1, guidance_scale=0`.

    Trained adapters are in its weights, and beside them in `lora` as a file for the base.
    """
    base = load_base(ARTIFACTS / "base")
    unet, entry = load_generator(ARTIFACTS / "train", "the trained generator")
    unet.register_to_config(sample_size=trained_side(c.data, base) // base.vae_scale_factor)
    with publish(ARTIFACTS / "ufogen") as out:
        export_pipeline(base, unet, out, entry)
        if (ARTIFACTS / "train" / "lora").is_dir():
            shutil.copytree(ARTIFACTS / "train" / "lora", out / "lora")


def trained_side(data: config.Data, base: Pipeline) -> int:
    """Of the pictures that the generator was trained on, pixels; the base may have been made for another."""
    return SIZE if data.source == "nouns" else data.resolution or base.unet.config.sample_size * base.vae_scale_factor


if __name__ == "__main__":
    run(main)
