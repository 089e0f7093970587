"""The share of noise that a generator keeps, on generators whose share is known."""

import pytest
import torch

from tests import tiny
from ufogen.diffusion.networks import Generator
from ufogen.evaluation.noise_kept import noise_kept

CPU = torch.device("cpu")


@pytest.mark.parametrize("kappa", [0.0, 0.3])
def test_it_is_the_factor_of_the_noise_that_is_added_to_the_bases_estimate(kappa):
    schedule, base = tiny.schedule(), Generator(tiny.unet(), tiny.schedule(), "epsilon").eval()

    def generator(x_t: torch.Tensor, t: torch.Tensor, prompt_embeds: torch.Tensor) -> torch.Tensor:
        mean = base(x_t, t, prompt_embeds)
        return mean + kappa * (x_t - schedule.alpha_bar(t).sqrt()[:, None, None, None] * mean)

    found = noise_kept(generator, base, tiny.latents(6), tiny.prompt_embeds(6), schedule, 0, CPU)
    assert list(found) == [999, 749, 499, 249]
    assert list(found.values()) == pytest.approx([kappa] * 4, abs=1e-4)
