"""Latent consistency distillation: its boundary, its target, and diffusers' LCMScheduler as the oracle of its sampler."""

from __future__ import annotations

import pytest
import torch
from diffusers import LCMScheduler

from tests import tiny
from tests.settings import make_distillation
from ufogen.base.models import make_scheduler
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_generator
from ufogen.distillation.boundary import boundary_scalings, consistency_function
from ufogen.distillation.consistency import pseudo_huber
from ufogen.distillation.method import Networks
from ufogen.distillation.methods import make_method
from ufogen.errors import UserError
from ufogen.randomness import Draws, torch_generator

SCHEDULE = tiny.schedule()


def method(**changes):
    return make_method(make_distillation("consistency", **changes), SCHEDULE, "v_prediction")


def drawn(n: int = 400):
    return method().draw(tiny.latents(n), {}, Draws(torch_generator("cpu", 0, "test")), 0)


def test_at_0_the_function_is_its_input_whatever_the_network_says():
    x = tiny.latents(3)
    f = consistency_function(lambda x_t, t: torch.full_like(x_t, 1e6))
    assert torch.equal(f(x, torch.zeros(3, dtype=torch.int64)), x)


def test_scalings_are_those_of_diffusers():
    scheduler, t = LCMScheduler(), torch.tensor([0, 1, 19, 259, 999])
    scheduler.set_timesteps(1)
    expected = [torch.as_tensor(value) for value in scheduler.get_scalings_for_boundary_condition_discrete(t)]
    for found, value in zip(boundary_scalings(t, like=tiny.latents(5)), expected, strict=True):
        torch.testing.assert_close(found.flatten(), value.float())


def test_timesteps_are_the_solvers_and_a_skipping_step_leads_to_the_next():
    items = drawn()
    assert set(items.t.tolist()) == set(range(19, 1000, 20))
    assert torch.equal(items.s, (items.t - 20).clamp(min=0))


def test_a_share_of_the_items_is_pure_noise_at_the_largest_timestep_and_knows_nothing_of_the_data():
    schedule = SCHEDULE.until(800)
    tuned = make_method(make_distillation("consistency", skipping_step=40, entry_share=0.5), schedule, "v_prediction")
    zeros, far = (
        tuned.draw(torch.full((400, 4, 8, 8), value), {}, Draws(torch_generator("cpu", 0, "test")), 0) for value in (0.0, 1e6)
    )
    at_entry = zeros.t == 800
    assert set(zeros.t.tolist()) == set(range(40, 801, 40)) and torch.equal(zeros.s, zeros.t - 40)
    assert 0.45 < at_entry.float().mean() < 0.6  # half of them, and a twentieth of the others
    assert torch.equal(zeros.x_t[at_entry], far.x_t[at_entry]) and (far.x_t[~at_entry] > 1e5).all()
    assert zeros.x_t[at_entry].std() == pytest.approx(1, abs=0.02)


def test_sampling_timesteps_are_ones_that_it_was_trained_at():
    assert method().timesteps(4) == [999, 759, 499, 259]
    assert method().timesteps(1) == [999]
    trained = set(range(19, 1000, 20))
    assert all(set(method().timesteps(steps)) <= trained for steps in (2, 4, 8))
    with pytest.raises(UserError, match=r"steps is 51; allowed: 1 \.\.\. 50"):
        method().timesteps(51)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sampling_is_that_of_diffusers_lcm_scheduler(steps):
    generator, text = Generator(tiny.unet(), SCHEDULE, "v_prediction"), tiny.prompt_embeds(3)
    found = sample_generator(
        method().denoiser(generator), tiny.latents(3), text, SCHEDULE, steps, torch.Generator().manual_seed(5),
        timesteps=method().timesteps(steps),
    )  # fmt: skip
    scheduler = LCMScheduler.from_config(make_scheduler("v_prediction").config, clip_sample=False)
    scheduler.set_timesteps(steps)
    x, fresh = tiny.latents(3), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = generator.unet(x, t, encoder_hidden_states=text, return_dict=False)[0]
            x, denoised = scheduler.step(output, t, x, generator=fresh, return_dict=False)
    torch.testing.assert_close(found, denoised, rtol=1e-3, atol=1e-4)


def test_exact_denoiser_of_one_point_is_consistent_and_another_is_not():
    """All data at one point, a Gaussian without width: its ODE is the line to it, which one DDIM step of any length follows."""
    items, point = drawn(64), torch.full((4, 8, 8), 0.4)

    def exact(x_t, t):
        return point.expand_as(x_t)

    networks = Networks(student=exact, teacher=exact, target=exact)
    loss, _ = method().student_loss(networks, items, method().generate(networks, items))
    assert loss.item() < 1e-6
    other = consistency_function(lambda x_t, t: exact(x_t, t) + 0.1)
    loss, _ = method().student_loss(networks, items, other(items.x_t, items.t))
    assert loss.item() == pytest.approx(0.1 - 0.001, rel=1e-2)


def test_target_follows_the_teacher_and_not_the_data():
    """A teacher that sees another point leads x_s, and with it a target that hands on its input, away."""
    items = drawn(8)
    items.t, items.s = torch.full((8,), 999), torch.full((8,), 979)
    far, near = (Networks(None, lambda x_t, t, c=c: torch.full_like(x_t, c), target=lambda x_t, t: x_t) for c in (50.0, 0.0))
    losses = [method().student_loss(networks, items, items.x_t)[0].item() for networks in (far, near)]
    assert losses[0] > 2 * losses[1]


def test_huber_is_square_at_0_and_absolute_far_out():
    assert pseudo_huber(torch.tensor([10.0]), 0.001).item() == pytest.approx(9.999)
    assert pseudo_huber(torch.tensor([1e-4]), 0.001).item() == pytest.approx(5e-6, rel=1e-2)


def test_step_that_does_not_divide_the_schedule_is_refused():
    with pytest.raises(UserError, match="skipping_step is 30; allowed: divisors of 1000 or of 999"):
        method(skipping_step=30)
