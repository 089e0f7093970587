"""Conversions between noise, velocity and clean sample against diffusers."""

import pytest
import torch
from diffusers import DDPMScheduler

from tests import tiny
from ufogen.base.models import SCHEDULE
from ufogen.diffusion.losses import gamma_weight, reconstruction_loss
from ufogen.diffusion.prediction import PREDICTION_TYPES, predict_x_0, training_target

SCHEDULE_1000 = tiny.schedule()


@pytest.mark.parametrize("t", [0, 249, 749, 999])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_x_0_is_that_of_diffusers(kind, t):
    output, x_t = tiny.latents(2, seed=1), tiny.latents(2, seed=2)
    scheduler = DDPMScheduler.from_config(SCHEDULE, prediction_type=kind)
    expected = scheduler.step(output, t, x_t).pred_original_sample
    found = predict_x_0(output, x_t, torch.full((2,), t), SCHEDULE_1000, kind)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-4)  # diffusers keeps alpha_bar in float32


def test_velocity_is_that_of_diffusers():
    x_0, noise, t = tiny.latents(4, seed=1), tiny.latents(4, seed=2), torch.tensor([0, 249, 749, 999])
    expected = DDPMScheduler.from_config(SCHEDULE).get_velocity(x_0, noise, t)
    found = training_target(x_0, noise, t, SCHEDULE_1000, "v_prediction")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_perfect_network_gives_x_0_back(kind):
    x_0, noise = tiny.normal(4, 4, 8, 8, seed=1, dtype=torch.float64), tiny.normal(4, 4, 8, 8, dtype=torch.float64)
    t = torch.tensor([0, 249, 749, 999])
    x_t = SCHEDULE_1000.q(x_0, t).sample(noise)
    output = training_target(x_0, noise, t, SCHEDULE_1000, kind)
    torch.testing.assert_close(predict_x_0(output, x_t, t, SCHEDULE_1000, kind), x_0)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_half_precision_is_widened_before_the_conversion(kind):
    output, x_t = tiny.latents(1, seed=1).bfloat16(), tiny.latents(1, seed=2).bfloat16()
    t = torch.tensor([999])
    found = predict_x_0(output, x_t, t, SCHEDULE_1000, kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, predict_x_0(output.float(), x_t.float(), t, SCHEDULE_1000, kind))


def test_double_precision_stays():
    x = tiny.normal(1, 1, 1, 1, dtype=torch.float64)
    assert predict_x_0(x, x, torch.tensor([9]), SCHEDULE_1000, "epsilon").dtype == torch.float64


def test_error_at_the_last_timestep_grows_14_6_times():
    x_t, error = tiny.latents(1), torch.ones(1, 4, 8, 8)
    t = torch.tensor([999])
    difference = predict_x_0(x_t, x_t, t, SCHEDULE_1000, "epsilon") - predict_x_0(x_t + error, x_t, t, SCHEDULE_1000, "epsilon")
    assert difference.mean().item() == pytest.approx(14.6, abs=0.05)


@pytest.mark.parametrize(("kind", "extra"), [("epsilon", 0), ("v_prediction", 1)])
def test_squared_error_of_the_output_is_a_weighted_error_of_x_0(kind, extra):
    """||eps - eps'||^2 = SNR ||x_0 - x'_0||^2 and ||v - v'||^2 = (SNR + 1) ||x_0 - x'_0||^2."""
    x_0, noise, output = (tiny.normal(4, 4, 8, 8, seed=seed, dtype=torch.float64) for seed in range(3))
    t = torch.tensor([99, 249, 749, 999])
    x_t = SCHEDULE_1000.q(x_0, t).sample(noise)
    direct = (training_target(x_0, noise, t, SCHEDULE_1000, kind) - output).square().mean()
    gamma = gamma_weight("snr", t, SCHEDULE_1000) + extra
    weighted = reconstruction_loss(predict_x_0(output, x_t, t, SCHEDULE_1000, kind), x_0, gamma)
    torch.testing.assert_close(weighted, direct)


@pytest.mark.parametrize("function", [predict_x_0, training_target])
def test_unknown_prediction_type_is_refused(function):
    x = tiny.latents(1)
    with pytest.raises(ValueError, match="'flow', allowed are epsilon, v_prediction, sample"):
        function(x, x, torch.tensor([5]), SCHEDULE_1000, "flow")
