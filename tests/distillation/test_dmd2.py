"""DMD2: where its gradient points, and what its critic learns."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.settings import make_distillation
from ufogen.diffusion.losses import EQUILIBRIUM
from ufogen.diffusion.prediction import predict_x_0, training_target
from ufogen.distillation.dmd2 import FakeScore, distribution_matching_gradient, output_weight, with_gradient
from ufogen.distillation.method import Networks
from ufogen.distillation.methods import make_method
from ufogen.errors import UserError
from ufogen.randomness import Draws, torch_generator

SCHEDULE = tiny.schedule()


def method(**changes):
    return make_method(make_distillation("dmd2", **changes), SCHEDULE, "v_prediction")


def drawn(n: int = 400, **changes):
    return method(**changes).draw(tiny.latents(n), {}, Draws(torch_generator("cpu", 0, "test")), 0)


def test_no_gradient_where_the_scores_agree():
    x, real = tiny.latents(3), tiny.latents(3, seed=1)
    assert not distribution_matching_gradient(x, real, real).any()


def test_descent_moves_a_sample_towards_the_real_and_away_from_the_fake():
    """Samples at 0, real data at 1: the fake score sees 0 and the real score 1, so a step down the gradient goes up."""
    x = torch.zeros(2, 4, 8, 8)
    gradient = distribution_matching_gradient(x, torch.ones_like(x), torch.zeros_like(x))
    torch.testing.assert_close(gradient, -torch.ones_like(x))
    torch.testing.assert_close(distribution_matching_gradient(x, -torch.ones_like(x), x), torch.ones_like(x))


def test_gradient_has_one_size_for_each_item_whatever_the_distance():
    x = torch.zeros(2, 4, 8, 8)
    real = torch.stack([torch.full((4, 8, 8), 0.01), torch.full((4, 8, 8), 100.0)])
    assert distribution_matching_gradient(x, real, x).abs().flatten(1).mean(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_a_sample_that_is_already_the_real_one_gives_no_nan():
    x = torch.zeros(1, 4, 8, 8)
    assert torch.equal(distribution_matching_gradient(x, x, x), x)


def test_surrogate_hands_on_the_gradient():
    x, gradient = tiny.latents(2).requires_grad_(), tiny.latents(2, seed=1)
    loss = with_gradient(x, gradient)
    loss.backward()
    torch.testing.assert_close(x.grad, gradient / gradient.numel())
    assert loss.item() == pytest.approx(0.5 * gradient.square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_weight_at_x_0_is_the_loss_of_the_output(prediction_type):
    x_0, noise, output = (tiny.latents(3, seed=seed).double() for seed in range(3))
    t = torch.tensor([10, 400, 999])
    x_t = SCHEDULE.q(x_0, t).sample(noise)
    target = training_target(x_0, noise, t, SCHEDULE, prediction_type)
    error = (x_0 - predict_x_0(output, x_t, t, SCHEDULE, prediction_type)).square().mean(dim=(1, 2, 3))
    expected = (target - output).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(output_weight(prediction_type, t, SCHEDULE) * error, expected)


def test_generator_gets_pure_noise_under_its_conditioning_timestep():
    items = drawn(conditioning_timestep=399)
    assert set(items.t.tolist()) == {399}
    assert items.x_t.std().item() == pytest.approx(1.0, abs=0.01)
    assert 20 <= items.s.min() < 40 and 960 < items.s.max() <= 980
    assert items.s_critic.min() < 20 and items.s_critic.max() > 980
    assert method(conditioning_timestep=399).timesteps(1) == [399]
    with pytest.raises(UserError, match="steps is 2; allowed with dmd2"):
        method().timesteps(2)


def test_critic_that_sees_gs_samples_has_no_denoising_loss_and_chance_is_the_equilibrium():
    items, x_0_fake = drawn(8), tiny.latents(8, seed=3)

    def critic(x_s, s):
        return torch.cat([x_0_fake, torch.zeros_like(x_0_fake)]), torch.zeros(len(x_s))

    _, found = method().critic_loss(Networks(None, None, critic=critic), items, x_0_fake)
    assert found["loss_fake"].item() == 0
    assert found["loss_d"].item() == pytest.approx(EQUILIBRIUM["nonsaturating"])


def test_gan_term_pulls_g_where_the_critic_calls_real():
    items, x = drawn(4), torch.zeros(4, 4, 8, 8, requires_grad=True)
    networks = Networks(None, lambda x_s, s: x_s, critic=lambda x_s, s: (x_s, x_s.flatten(1).sum(dim=1)))
    loss, _ = method(generator_gan_weight=1.0).student_loss(networks, items, x)
    loss.backward()
    assert (x.grad < 0).all()  # a greater x'_0 has a greater logit


def test_fake_score_starts_as_the_base_and_judges_by_the_bottleneck():
    from ufogen.diffusion.networks import Generator

    unet = tiny.unet()
    fake, base = FakeScore(tiny.unet(), SCHEDULE, "v_prediction"), Generator(unet, SCHEDULE, "v_prediction")
    x, s, text = tiny.latents(3), torch.tensor([5, 400, 999]), tiny.prompt_embeds(3)
    with torch.no_grad():
        x_0, logits = fake(x, s, prompt_embeds=text)
        torch.testing.assert_close(x_0, base(x, s, prompt_embeds=text))
        fake.unet.conv_out.weight.zero_()  # the end of the decoder, which the logits do not see
        torch.testing.assert_close(fake(x, s, prompt_embeds=text)[1], logits)
    assert logits.shape == (3,) and logits.std() > 0


@pytest.mark.parametrize("key", ["conditioning_timestep", "maximum_timestep"])
def test_timesteps_beyond_the_schedule_are_refused(key):
    with pytest.raises(UserError, match=rf"distillation\.{key} is 1000; allowed: 0 \.\.\. 999"):
        method(**{key: 1000})


def test_a_range_upside_down_is_refused():
    with pytest.raises(UserError, match="parameter maximum_timestep is 10; allowed: a whole number, 20 or greater"):
        method(maximum_timestep=10)
