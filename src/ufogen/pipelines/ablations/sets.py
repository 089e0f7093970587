"""Prepare what the arms of the ablation study are measured on: token states of their prompts, features of real images."""

from __future__ import annotations

import numpy as np

from ufogen import config
from ufogen.base.loading import load_base
from ufogen.base.text import encode_text
from ufogen.data.pairs import read_pairs
from ufogen.evaluation import features
from ufogen.inference.export import refuse_sdxl
from ufogen.pipelines.ablations.paths import SETS
from ufogen.pipelines.stage import ARTIFACTS, publish, run
from ufogen.training.loop import make_accelerator


def main(c: config.Config) -> None:
    """Write artifacts/ablations/sets/NAME.npz, `prompt_embeds` and `features`, for the prompts of both sets."""
    device, pipeline = make_accelerator(c.device, "no").device, load_base(ARTIFACTS / "base")
    refuse_sdxl(pipeline, "the ablation study")
    with publish(SETS) as out:
        for prompts, real in (("validation", "validation_floor"), ("evaluation", "evaluation")):
            captions = read_pairs(ARTIFACTS / "data" / prompts).captions[: c.ablations.evaluation_size]
            images = np.array(read_pairs(ARTIFACTS / "data" / real).images)
            prompt_embeds = encode_text(captions, pipeline.text_encoder, pipeline.tokenizer).cpu().numpy()
            np.savez(out / prompts, prompt_embeds=prompt_embeds, features=features.extract(images, device=device).cpu().numpy())


if __name__ == "__main__":
    run(main)
