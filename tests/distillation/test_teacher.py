"""Guidance and the steps of the teacher's ODE."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from tests import tiny
from ufogen.base.models import make_scheduler
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_base
from ufogen.distillation.teacher import ddim_step, guided

SCHEDULE = tiny.schedule()


def timestep(t: int, n: int = 3) -> torch.Tensor:
    return torch.full((n,), t)


def test_steps_along_the_teacher_are_those_of_diffusers_ddim():
    scheduler = DDIMScheduler.from_config(
        make_scheduler("sample").config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False
    )
    scheduler.set_timesteps(4)
    x_t, x_0 = tiny.latents(3), tiny.latents(3, seed=1)
    for t, s in ((999, 749), (749, 499), (249, -1)):
        expected = scheduler.step(x_0, t, x_t).prev_sample
        torch.testing.assert_close(ddim_step(x_0, x_t, timestep(t), timestep(s), SCHEDULE), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 7.5])
def test_guidance_is_that_of_the_bases_sampler(scale):
    """One DDIM step to clean data is the guided x'_0 itself."""
    unet, x_t, own, empty = tiny.unet(), tiny.latents(3), tiny.prompt_embeds(3), tiny.prompt_embeds(1, seed=9)
    scheduler = make_scheduler("v_prediction").config
    expected = sample_base(unet, x_t, own, empty[0], scheduler, steps=1, guidance=scale)
    teacher = guided(Generator(unet, SCHEDULE, "v_prediction"), {"prompt_embeds": empty}, scale)
    with torch.no_grad():
        found = teacher(x_t, timestep(999), prompt_embeds=own)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scale", "items"), [(1.0, [3]), (2.0, [6])])
def test_guidance_is_one_pass_of_both_and_none_without_it(scale, items):
    seen = []

    def teacher(x_t, t, prompt_embeds):
        seen.append(len(x_t))
        return x_t

    guided(teacher, {"prompt_embeds": tiny.prompt_embeds(1)}, scale)(
        tiny.latents(3), timestep(5), prompt_embeds=tiny.prompt_embeds(3)
    )
    assert seen == items
