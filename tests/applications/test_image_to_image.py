"""Image to image: our one pass is the API's, and its distances are what they say."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from ufogen import UFOGen
from ufogen.applications.image_to_image import edit_latents, feature_distance, mean_squared_error, strength_timestep
from ufogen.base.autoencoder import decode_latents, encode_images
from ufogen.base.text import encode_text
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.schedule import CLEAN

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_edit_is_that_of_the_api(strength):
    model = UFOGen(tiny.pipeline())
    pipeline, side = model.pipeline, 2 * tiny.SIZE
    source = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    expected = np.asarray(model.edit(Image.fromarray(source[0]), "a noun", strength, seed=3)[0], int)
    generator = Generator(pipeline.unet, tiny.schedule(), "epsilon")
    prompt_embeds = encode_text(["a noun"], pipeline.text_encoder, pipeline.tokenizer)
    noise = torch.randn(1, tiny.CHANNELS, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(3))
    latents = edit_latents(generator, encode_images(source, pipeline.vae), noise, prompt_embeds, tiny.schedule(), strength)
    assert np.abs(decode_latents(latents, pipeline.vae)[0] - expected).max() <= 1


@pytest.mark.parametrize(("strength", "timestep"), [(0, CLEAN), (0.1, 99), (0.3, 299), (0.29, 289), (0.7, 699), (1, 999)])
def test_timestep_of_a_strength(strength, timestep):
    assert strength_timestep(strength) == timestep


def test_squared_error_is_in_units_of_the_range():
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    assert mean_squared_error(black, black) == 0 and mean_squared_error(black, white) == mean_squared_error(white, black) == 1
    assert mean_squared_error(black + np.uint8(51), black) == pytest.approx(0.04)


def test_feature_distance_is_0_for_the_source_and_1_for_another():
    sources = tiny.normal(5, 7)
    assert feature_distance(sources, sources) == 0
    assert feature_distance(sources.roll(1, 0), sources) == pytest.approx(1)
    line = torch.tensor([[0.0], [2.0]])  # two apart
    assert feature_distance(line + 0.5, line) == pytest.approx(0.25)
