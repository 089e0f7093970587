"""An exported folder without this package: a process that cannot import it draws the pictures of `ufogen sample`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from ufogen.app import cli
from ufogen.base.autoencoder import decode_latents
from ufogen.base.text import encode_text
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_generator
from ufogen.inference.export import export_pipeline

PROMPT, SEED = "a noun with red glasses", 3
STRANGER = """
import sys
sys.modules["ufogen"] = None  # an import of it fails
import torch
from diffusers import StableDiffusionPipeline

folder, output, prompt, seed = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
for steps in (1, 2, 4):
    rng = torch.Generator().manual_seed(int(seed))
    pipe(prompt, num_inference_steps=steps, guidance_scale=0, generator=rng).images[0].save(f"{output}/{steps}.png")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fresh")


@pytest.fixture(scope="module")
def base():
    return tiny.pipeline()


@pytest.fixture(scope="module")
def strangers(folder, base):
    """Pictures of a process that has the folder and diffusers alone, by steps."""
    export_pipeline(base, tiny.unet(seed=9), folder / "model")
    command = [sys.executable, "-I", "-c", STRANGER, folder / "model", folder, PROMPT, str(SEED)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return {steps: Image.open(folder / f"{steps}.png") for steps in (1, 2, 4)}


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_stranger_draws_what_the_command_draws(strangers, folder, steps):
    output = folder / f"ours-{steps}.png"
    arguments = ["sample", PROMPT, "--seed", str(SEED), "--steps", str(steps), "--scale", "1"]
    assert cli.main([*arguments, "--model", str(folder / "model"), "--device", "cpu", "-o", str(output)]) == 0
    assert Image.open(output).tobytes() == strangers[steps].tobytes()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_stranger_draws_what_our_sampler_draws(strangers, base, steps):
    rng = torch.Generator().manual_seed(SEED)
    noise = torch.randn(1, tiny.CHANNELS, tiny.SIZE, tiny.SIZE, generator=rng)
    prompt_embeds = encode_text([PROMPT], base.text_encoder, base.tokenizer)
    generator = Generator(tiny.unet(seed=9), tiny.schedule(), "epsilon")
    x_0 = sample_generator(generator, noise, prompt_embeds, tiny.schedule(), steps, rng)
    difference = np.abs(np.asarray(strangers[steps], int) - decode_latents(x_0, base.vae)[0])
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
