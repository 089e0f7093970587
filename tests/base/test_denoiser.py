"""The denoiser's batches and its place between the latents."""

from collections import Counter

import pytest
import torch

from tests.settings import make_denoiser
from ufogen.base.denoiser import Chunk, Chunks
from ufogen.base.models import build_denoiser

N = 12


def chunks(images_per_caption: int, passes: int, batch_size: int = 4) -> Chunks:
    def make(number: int) -> Chunk:
        images = torch.arange(N * images_per_caption) + 1000 * number
        return Chunk(images, torch.arange(N) + 1000 * number)

    settings = make_denoiser(chunk_size=N, images_per_caption=images_per_caption, passes=passes)
    return Chunks(make, settings, batch_size, 0)


@pytest.mark.parametrize(("images", "passes"), [(1, 1), (1, 3), (3, 3), (2, 4)])
def test_each_image_stands_beside_its_caption_and_is_seen_equally_often(images: int, passes: int):
    batches, seen = chunks(images, passes), Counter()
    for step in range(passes * N // 4):
        batch = batches(step)
        assert torch.equal(batch.latents % N, batch.prompt_embeds)
        seen.update(batch.latents.tolist())
    assert seen == dict.fromkeys(range(images * N), passes // images)
    assert int(batches(passes * N // 4).prompt_embeds.min()) >= 1000  # the next chunk


def test_batch_is_a_function_of_its_number():
    forward, late = chunks(3, 3), chunks(3, 3)
    expected = [forward(step) for step in range(12)]
    assert torch.equal(late(11).latents, expected[11].latents)


@pytest.mark.parametrize(("attention", "levels"), [("all", [True, True, True]), ("lower", [False, True, True])])
def test_levels_with_cross_attention(attention: str, levels: list[bool]):
    settings = make_denoiser(channels=[16, 16, 32], heads=2, attention=attention)
    model = build_denoiser(settings, latent_channels=8)
    assert [hasattr(block, "attentions") for block in model.down_blocks] == levels
    assert [hasattr(block, "attentions") for block in model.up_blocks] == levels[::-1]
    with torch.no_grad():
        output = model(torch.zeros(2, 8, 8, 8), torch.tensor([3, 900]), torch.zeros(2, 5, 384)).sample
    assert output.shape == (2, 8, 8, 8)
