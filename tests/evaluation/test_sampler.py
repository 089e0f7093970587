"""One way from noise to images: the same noise for every method, block and device."""

import numpy as np
import pytest
import torch

from tests import tiny
from ufogen.base.autoencoder import decode_latents
from ufogen.base.text import encode_nothing, encode_text
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_base, sample_generator
from ufogen.errors import UserError
from ufogen.evaluation.sampler import Method, Sampler, methods
from ufogen.randomness import torch_generator

CPU = torch.device("cpu")
PROMPTS = ["a noun with red glasses", "the head", "a noun", "red glasses and the head", "the noun"]
SEED = 3


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler.load(tiny.pipeline(), (tiny.unet(1), 0), CPU, torch.float32)


def noise(n: int, block: int) -> torch.Tensor:
    return torch.randn((n, tiny.CHANNELS, tiny.SIZE, tiny.SIZE), generator=torch_generator("cpu", SEED, "initial noise", block))


def test_generator_and_base_are_sampled_as_the_samplers_of_the_method_do(sampler):
    base, found = sampler.base, {}
    prompt_embeds = encode_text(PROMPTS[:2], base.text_encoder, base.tokenizer)
    text = sampler.encode(PROMPTS[:2])
    generator = Generator(tiny.unet(1), tiny.schedule(), "epsilon").eval()
    found["ufogen"] = sample_generator(
        generator, noise(2, 0), prompt_embeds, tiny.schedule(), 2, torch_generator("cpu", SEED, "fresh noise", 0)
    )
    empty = encode_nothing(base).prompt_embeds[0]
    found["base"] = sample_base(base.unet, noise(2, 0), prompt_embeds, empty, base.scheduler.config, 2, 3.0, "dpm++")
    for method in (Method("ufogen", "renoise", 2), Method("base", "dpm++", 2, 3.0)):
        expected = decode_latents(found[method.method], base.vae)
        assert np.array_equal(sampler.sample(method, text, size=2, seed=SEED), expected)


def test_a_block_has_noise_of_its_own_whichever_the_others_are(sampler):
    blocks = list(sampler.blocks(5, 2, SEED))
    assert [rows for rows, _, _ in blocks] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    for block, (rows, x_t, fresh) in enumerate(blocks):
        assert torch.equal(x_t, noise(rows.stop - rows.start, block))
        assert fresh.initial_seed() == torch_generator("cpu", SEED, "fresh noise", block).initial_seed()
    method, text = Method("ufogen", "renoise", 2), sampler.encode(PROMPTS)
    assert np.array_equal(sampler.sample(method, text, 2, SEED)[:4], sampler.sample(method, text[:4], 2, SEED))


def test_a_network_takes_the_place_of_the_methods_own(sampler):
    text, x_t = sampler.encode(PROMPTS[:2]), noise(2, 0)
    other = tiny.unet(2)
    for method, network in ((Method("ufogen", "renoise", 1), sampler.denoiser(other)), (Method("base", "ddim", 1, 0.0), other)):
        changed = sampler.latents(method, x_t, text, network=network)
        fresh = Sampler.load(tiny.pipeline(2), (tiny.unet(2), 0), CPU, torch.float32)
        fresh.base.text_encoder = sampler.base.text_encoder
        assert torch.equal(changed, fresh.latents(method, x_t, text))
        assert not torch.equal(changed, sampler.latents(method, x_t, text))


def test_further_steps_are_drawn_as_in_training(sampler):
    posterior = Sampler(sampler.base, CPU, sampler.generator, parameterization="posterior")
    text = sampler.encode(PROMPTS[:2])
    for steps, same in ((1, True), (2, False)):
        method = Method("ufogen", "renoise", steps)
        assert np.array_equal(posterior.sample(method, text, 2, SEED), sampler.sample(method, text, 2, SEED)) == same


def test_rows_of_a_comparison_are_each_method_at_each_of_its_steps():
    found = methods(("ufogen", "ddim"), [1, 4], [25], 2.0, "sampler.base_solvers")
    assert [method.name for method in found] == ["ufogen-renoise-1", "ufogen-renoise-4", "base-ddim-25"]
    assert [method.guidance for method in found] == [0, 0, 2]
    with pytest.raises(UserError, match=r"parameter sampler.base_solvers has 'euler'; allowed: ufogen, ddim, dpm\+\+"):
        methods(("euler",), [1], [1], 2.0, "sampler.base_solvers")
