"""The forward process against golden numbers, diffusers, Monte Carlo and its own identities."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.golden import golden
from ufogen.base.models import SCHEDULE
from ufogen.diffusion.schedule import CLEAN, Schedule

GOLDEN = golden("schedule")
ROUNDING = 6e-7  # the golden coefficients have six decimals


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return tiny.schedule()


def timesteps(*values: int) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(("t", "expected"), GOLDEN["stable_diffusion"]["alpha_bar"].items())
def test_alpha_bar_of_stable_diffusion(schedule, t, expected):
    assert schedule.alpha_bar(timesteps(t)).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("row", GOLDEN["stable_diffusion"]["posterior"], ids=lambda row: f"{row['t']}-{row['s']}")
def test_posterior_coefficients_of_stable_diffusion(schedule, row):
    found = torch.cat(schedule.posterior_coefficients(timesteps(row["t"]), timesteps(row["s"])))
    assert found.tolist() == pytest.approx([row["x_0"], row["x_t"], row["variance"]], abs=ROUNDING)


def test_posterior_coefficients_of_ddgan_with_four_steps():
    expected = GOLDEN["ddgan"]
    ddgan = Schedule(torch.cumprod(1 - vp_sde_betas(4), 0))
    t = torch.arange(4)
    x_0, x_t, variance = ddgan.posterior_coefficients(t, t - 1)
    assert x_0.tolist() == pytest.approx(expected["posterior"]["x_0"], abs=ROUNDING)
    assert x_t.tolist() == pytest.approx(expected["posterior"]["x_t"], abs=ROUNDING)
    assert variance.tolist() == pytest.approx(expected["posterior"]["variance"], abs=ROUNDING)


def test_step_variance_of_adjacent_steps_is_beta():
    ddgan = Schedule(torch.cumprod(1 - vp_sde_betas(4), 0))
    t = torch.arange(4)
    assert ddgan.step_variance(t, t - 1).tolist() == pytest.approx(GOLDEN["ddgan"]["betas"], abs=ROUNDING)


def vp_sde_betas(steps: int) -> torch.Tensor:
    """The continuous VP-SDE with beta from 0.1 to 20, cut into `steps` steps as DDGAN does."""
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64) * (1 - 1e-3) + 1e-3
    alpha_bar = torch.exp(-0.5 * time**2 * (20 - 0.1) - time * 0.1)
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


@pytest.mark.parametrize("steps", [1000, 4], ids=["adjacent", "jumps of 250"])
@pytest.mark.parametrize("t", [999, 749, 499, 249])
def test_posterior_is_that_of_the_diffusers_ancestral_step(schedule, steps, t):
    scheduler = DDPMScheduler.from_config(SCHEDULE, prediction_type="sample")
    scheduler.set_timesteps(steps)
    x_0, x_t = tiny.latents(2, seed=1), tiny.latents(2, seed=2)
    noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3))
    expected = scheduler.step(x_0, t, x_t, generator=torch.Generator().manual_seed(3)).prev_sample
    t = torch.full((2,), t)
    found = schedule.posterior(x_0, x_t, t, t - 1000 // steps).sample(noise)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_forward_process_is_that_of_diffusers(schedule):
    scheduler = DDPMScheduler.from_config(SCHEDULE)
    x_0, noise, t = tiny.latents(4, seed=1), tiny.latents(4, seed=2), timesteps(0, 249, 500, 999)
    expected = scheduler.add_noise(x_0, noise, t)
    torch.testing.assert_close(schedule.q(x_0, t).sample(noise), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [249, 499, 999])
def test_clean_posterior_is_x_0_itself(schedule, t):
    x_0, x_t = tiny.latents(1, seed=1), tiny.latents(1, seed=2)
    q = schedule.posterior(x_0, x_t, timesteps(t), timesteps(CLEAN))
    assert torch.equal(q.mean, x_0)
    assert q.variance.item() == 0
    assert torch.equal(q.sample(x_t), x_0)


def test_clean_forward_process_is_x_0_itself(schedule):
    x_0 = tiny.latents(1)
    assert torch.equal(schedule.q(x_0, timesteps(CLEAN)).sample(tiny.latents(1, seed=1)), x_0)
    assert schedule.snr(timesteps(CLEAN)).item() == math.inf


def test_posterior_after_forward_gives_the_joint_of_the_chain(schedule):
    """x_0 -> x_t -> x_s by the posterior has the moments of x_0 -> x_s -> x_t, both measured by Monte Carlo."""
    n, t, s = 400_000, timesteps(749), timesteps(499)
    x_0 = torch.full((1, n), 0.8, dtype=torch.float64)
    noise = tiny.normal(4, 1, n, dtype=torch.float64)
    x_t = schedule.q(x_0, t).sample(noise[0])
    back = torch.cat([schedule.posterior(x_0, x_t, t, s).sample(noise[1]), x_t])
    x_s = schedule.q(x_0, s).sample(noise[2])
    chain = torch.cat([x_s, schedule.q_step(x_s, s, t).sample(noise[3])])
    torch.testing.assert_close(back.mean(1), chain.mean(1), rtol=0, atol=0.008)  # five standard errors
    torch.testing.assert_close(back.cov(), chain.cov(), rtol=0, atol=0.011)
    assert chain.cov()[0, 1] > 0.2  # the two are correlated, so independent draws would fail above


@st.composite
def schedules_with_a_pair(draw):
    """A random schedule and s < t on it, s = -1 included."""
    betas = draw(st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=40))
    t = draw(st.integers(0, len(betas) - 1))
    s = draw(st.integers(CLEAN, t - 1))
    alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    return Schedule(alpha_bar), timesteps(t), timesteps(s)


@given(schedules_with_a_pair())
def test_posterior_after_forward_gives_the_marginal(case):
    schedule, t, s = case
    c_0, c_t, variance = schedule.posterior_coefficients(t, s)
    alpha_bar_s, alpha_bar_t = schedule.alpha_bar(s), schedule.alpha_bar(t)
    assert (c_0 + c_t * alpha_bar_t.sqrt()).item() == pytest.approx(alpha_bar_s.sqrt().item(), abs=1e-9)
    assert (variance + c_t**2 * (1 - alpha_bar_t)).item() == pytest.approx((1 - alpha_bar_s).item(), abs=1e-9)


@given(schedules_with_a_pair())
def test_two_forward_steps_give_the_marginal(case):
    schedule, t, s = case
    x_0 = torch.ones(1, 1, dtype=torch.float64)
    x_s, x_t = schedule.q(x_0, s), schedule.q(x_0, t)
    step = schedule.q_step(x_s.mean, s, t)
    assert step.mean.item() == pytest.approx(x_t.mean.item(), abs=1e-9)
    variance = step.variance + (1 - step.variance) * x_s.variance
    assert variance.item() == pytest.approx(x_t.variance.item(), abs=1e-9)


@given(schedules_with_a_pair())
def test_posterior_variance_lies_between_zero_and_the_marginals(case):
    schedule, t, s = case
    *_, variance = schedule.posterior_coefficients(t, s)
    assert 0 <= variance.item() <= (1 - schedule.alpha_bar(s)).item() + 1e-12


def test_coefficients_are_shaped_and_typed_like_the_data(schedule):
    q = schedule.q(tiny.latents(3), timesteps(1, 2, 3))
    assert q.mean.shape == (3, 4, 8, 8)
    assert q.variance.shape == (3, 1, 1, 1)
    assert q.mean.dtype == q.variance.dtype == torch.float32
    assert schedule.alpha_bar(timesteps(1, 2, 3)).dtype == torch.float64


def test_gradient_passes_through_the_forward_process(schedule):
    x_0 = tiny.latents(1).requires_grad_()
    schedule.q(x_0, timesteps(499)).sample(tiny.latents(1, seed=1)).sum().backward()
    factor = math.sqrt(GOLDEN["stable_diffusion"]["alpha_bar"][499])
    torch.testing.assert_close(x_0.grad, torch.full_like(x_0, factor))


@pytest.mark.parametrize(
    "alpha_bar",
    [[0.5, 0.5], [0.4, 0.5], [1.0, 0.5], [0.5, 0.0], [[0.5, 0.4]], [0.5, math.nan]],
    ids=["constant", "increasing", "one", "zero", "two-dimensional", "nan"],
)
def test_impossible_alpha_bar_is_refused(alpha_bar):
    with pytest.raises(ValueError, match="strictly decreasing"):
        Schedule(torch.tensor(alpha_bar))


@pytest.mark.parametrize("t", [-2, 1000])
def test_timestep_outside_the_schedule_is_refused(schedule, t):
    with pytest.raises(ValueError, match="-1 ... 999"):
        schedule.alpha_bar(timesteps(5, t))


@pytest.mark.parametrize("s", [499, 500])
def test_s_that_is_not_below_t_is_refused(schedule, s):
    with pytest.raises(ValueError, match="smaller"):
        schedule.posterior_coefficients(timesteps(999, 499), timesteps(749, s))


@pytest.mark.parametrize(
    "changes",
    [{}, {"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.1, 0.2, 0.3]}],
    ids=["scaled linear", "linear", "cosine", "given betas"],
)
def test_schedule_of_a_diffusers_scheduler_is_its_own(changes):
    scheduler = DDIMScheduler.from_config(SCHEDULE | changes)
    schedule = Schedule.from_scheduler(scheduler)
    found = schedule.alpha_bar(torch.arange(schedule.num_timesteps))
    torch.testing.assert_close(found.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)
