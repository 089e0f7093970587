"""Each term of the objective against closed forms, golden numbers and Monte Carlo."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.distributions import Normal, kl_divergence

from tests import tiny
from tests.golden import golden
from ufogen.diffusion import losses
from ufogen.diffusion.objective import denoising_step

GOLDEN = golden("losses")
SCHEDULE = tiny.schedule()
ADVERSARIAL = tuple(losses.EQUILIBRIUM)


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return tiny.normal(*shape, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "value"), [("nonsaturating", 2 * math.log(2)), ("clamped_bce", 2 * math.log(2)), ("hinge", 2.0)]
)
def test_undecided_discriminator_gives_the_equilibrium(kind, value):
    zero = torch.zeros(2, 1, 8, 8)
    assert losses.discriminator_loss(zero, zero, kind).item() == pytest.approx(value)
    assert losses.EQUILIBRIUM[kind] == pytest.approx(value)


def test_nonsaturating_loss_is_binary_cross_entropy_with_logits():
    real, fake = double(3, 1, 8, 8, seed=1), double(3, 1, 8, 8, seed=2)
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    expected = F.binary_cross_entropy_with_logits(real, one) + F.binary_cross_entropy_with_logits(fake, zero)
    torch.testing.assert_close(losses.discriminator_loss(real, fake, "nonsaturating"), expected)
    expected = F.binary_cross_entropy_with_logits(fake, one)
    torch.testing.assert_close(losses.generator_loss(fake, "nonsaturating"), expected)


def test_hinge_is_zero_beyond_its_margin():
    assert losses.discriminator_loss(torch.tensor([1.5]), torch.tensor([-1.5]), "hinge").item() == 0
    assert losses.discriminator_loss(torch.tensor([0.5]), torch.tensor([-0.75]), "hinge").item() == 0.75
    assert losses.generator_loss(torch.tensor([0.25, 0.75]), "hinge").item() == -0.5


def test_clamped_loss_is_the_plain_one_inside_its_margin():
    real, fake = double(3, 1, 8, 8, seed=1).tanh() / 2, double(3, 1, 8, 8, seed=2).tanh() / 2
    for function, arguments in ((losses.discriminator_loss, (real, fake)), (losses.generator_loss, (fake,))):
        assert torch.equal(function(*arguments, "clamped_bce"), function(*arguments, "nonsaturating"))


def test_clamped_gradient_is_off_where_the_discriminator_is_right_by_the_margin():
    real = torch.tensor([0.4, 0.6, -3.0], requires_grad=True)
    fake = torch.tensor([-0.4, -0.6, 3.0], requires_grad=True)
    losses.discriminator_loss(real, fake, "clamped_bce").backward()
    assert (real.grad != 0).tolist() == [True, False, True]
    assert (fake.grad != 0).tolist() == [True, False, True]


def test_clamped_gradient_of_the_generator_is_off_where_it_fools_by_the_margin():
    fake = torch.tensor([0.4, 0.6, -3.0], requires_grad=True)
    losses.generator_loss(fake, "clamped_bce").backward()
    assert (fake.grad != 0).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_losses_pull_logits_the_right_way(kind):
    real, fake = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    losses.discriminator_loss(real, fake, kind).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake = torch.zeros(2, requires_grad=True)
    losses.generator_loss(fake, kind, torch.zeros(2)).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("kind", ["snr", "truncated_snr"])
@pytest.mark.parametrize("row", GOLDEN["weights"], ids=lambda row: str(row["t"]))
def test_gamma_equals_the_golden_table(kind, row):
    gamma = losses.gamma_weight(kind, torch.tensor([row["t"]]), SCHEDULE)
    assert gamma.item() == pytest.approx(row[kind], abs=6e-5)


def test_constant_gamma_is_one():
    assert losses.gamma_weight("constant", torch.tensor([99, 999]), SCHEDULE).tolist() == [1, 1]


@pytest.mark.parametrize("row", GOLDEN["weights"], ids=lambda row: str(row["t"]))
def test_forward_kl_weight_equals_the_golden_table(row):
    t, s = torch.tensor([row["t"]]), torch.tensor([row["s"]])
    weight = losses.forward_kl_weight(t, s, SCHEDULE)
    assert weight.item() == pytest.approx(row["kl_step"], abs=6e-5)
    c_0, *_ = SCHEDULE.posterior_coefficients(t, s)
    assert (weight * c_0**2).item() == pytest.approx(row["posterior"], abs=6e-5)


def test_forward_kl_is_the_divergence_of_the_two_forward_kernels():
    x_s, x_s_fake = double(3, 4, 8, 8, seed=1), double(3, 4, 8, 8, seed=2)
    t, s = torch.tensor([499, 749, 999]), torch.tensor([249, 499, 749])
    real, fake = SCHEDULE.q_step(x_s, s, t), SCHEDULE.q_step(x_s_fake, s, t)
    deviation = real.variance.sqrt()
    expected = kl_divergence(Normal(fake.mean, deviation), Normal(real.mean, deviation)).mean()
    found = losses.reconstruction_loss(x_s_fake, x_s, losses.forward_kl_weight(t, s, SCHEDULE))
    torch.testing.assert_close(found, expected)


def test_forward_kl_is_a_distance_at_x_t_with_shared_noise():
    x_s, x_s_fake, noise = (double(3, 4, 8, 8, seed=seed) for seed in range(3))
    t, s = torch.tensor([499, 749, 999]), torch.tensor([249, 499, 749])
    x_t, x_t_fake = (SCHEDULE.q_step(x, s, t).sample(noise) for x in (x_s, x_s_fake))
    expected = losses.reconstruction_loss(x_t_fake, x_t, 1 / (2 * SCHEDULE.step_variance(t, s)))
    found = losses.reconstruction_loss(x_s_fake, x_s, losses.forward_kl_weight(t, s, SCHEDULE))
    torch.testing.assert_close(found, expected)


def test_reconstruction_weighs_each_item_by_its_gamma():
    target = torch.zeros(2, 1, 2, 2)
    prediction = torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 2.0)])
    assert losses.reconstruction_loss(prediction, target, torch.tensor([3.0, 0.5])).item() == (3 * 1 + 0.5 * 4) / 2


class XsIdentity:
    """The bimodal case of golden/losses.yaml: what E (x_s - x'_s)^2 measures and what the identity predicts."""

    golden = GOLDEN["x_s_identity"]
    t, s = torch.tensor([golden["t"]]), torch.tensor([golden["s"]])
    second_moment = 1 + 0.2**2
    abar_t, abar_s = SCHEDULE.alpha_bar(t).item(), SCHEDULE.alpha_bar(s).item()

    @classmethod
    def error_at_x_0(cls, slope: float) -> float:
        """E (x_0 - slope x_t)^2."""
        return cls.second_moment * (1 - slope * math.sqrt(cls.abar_t)) ** 2 + slope**2 * (1 - cls.abar_t)

    @classmethod
    def forward(cls, slope: float, chained: bool) -> float:
        """x'_s re-noised: abar_s E (x_0 - x'_0)^2 + 2 (1 - abar_s), and when chained 2 sqrt(..) E eps_s x'_0 less."""
        cross = 2 * slope * math.sqrt(cls.abar_t) * (1 - cls.abar_s) if chained else 0
        return cls.abar_s * cls.error_at_x_0(slope) + 2 * (1 - cls.abar_s) - cross

    @classmethod
    def posterior(cls, slope: float) -> float:
        """x'_s from the posterior: c_0^2 E (x_0 - x'_0)^2 + 2 variance; nothing else, for x_s shares the mean's x_t."""
        c_0, _, variance = (value.item() for value in SCHEDULE.posterior_coefficients(cls.t, cls.s))
        return c_0**2 * cls.error_at_x_0(slope) + 2 * variance

    @classmethod
    def best_slope(cls, chained: bool) -> float:
        """The minimum of the parabola `forward` in the slope, from three of its points."""
        low, middle, high = (cls.forward(slope, chained) for slope in (0.0, 0.5, 1.0))
        return 0.5 - (high - low) / (8 * (low + high - 2 * middle)) * 2

    @classmethod
    def measure(cls, coupling: str, parameterization: str, slope: float) -> float:
        """One million draws through the code under test."""
        noise = double(6, 1, 1_000_000, seed=7)
        x_0 = noise[0].sign() + 0.2 * noise[1]
        x_s = SCHEDULE.q(x_0, cls.s).sample(noise[2])
        q_t = SCHEDULE.q_step(x_s, cls.s, cls.t) if coupling == "chained" else SCHEDULE.q(x_0, cls.t)
        x_t = q_t.sample(noise[3])
        _, fake = denoising_step(lambda x_t, t: slope * x_t, x_t, cls.t, cls.s, noise[4], SCHEDULE, parameterization)
        return losses.reconstruction_loss(fake, x_s, torch.ones(1)).item()


def test_x_s_distance_predicted_is_the_recorded_one():
    case = XsIdentity
    slope = case.golden["slope"]
    assert case.forward(slope, chained=False) == pytest.approx(case.golden["forward_without_cross_term"], abs=1e-3)
    assert case.forward(slope, chained=True) == pytest.approx(case.golden["forward_with_cross_term"], abs=1e-3)
    assert case.forward(slope, chained=True) == pytest.approx(case.golden["forward_chained"], abs=1e-3)
    assert case.posterior(slope) == pytest.approx(case.golden["posterior_chained"], abs=1e-3)


@pytest.mark.parametrize("slope", [0.7, 0.25])
def test_x_s_distance_measured_is_the_predicted_one(slope):
    case, accuracy = XsIdentity, 0.01  # five standard errors
    assert case.measure("independent", "forward", slope) == pytest.approx(case.forward(slope, False), abs=accuracy)
    assert case.measure("chained", "forward", slope) == pytest.approx(case.forward(slope, True), abs=accuracy)
    assert case.measure("chained", "posterior", slope) == pytest.approx(case.posterior(slope), abs=accuracy)


def test_chained_x_s_distance_teaches_the_generator_to_keep_noise():
    case = XsIdentity
    assert case.best_slope(chained=True) == pytest.approx(case.golden["best_slope_chained"], abs=2e-3)
    assert case.best_slope(chained=False) == pytest.approx(case.golden["best_slope_without_cross_term"], abs=2e-3)


def test_r1_of_a_linear_critic_is_half_its_squared_norm():
    weight, x = double(4, 8, 8), double(3, 4, 8, 8, seed=1).requires_grad_()
    logits = (weight * x).flatten(1).sum(dim=1, keepdim=True)
    torch.testing.assert_close(losses.r1_penalty(logits, x), weight.square().sum() / 2)


def test_r1_of_a_quadratic_critic_is_its_closed_form():
    matrix, x = double(5, 5), double(7, 5, seed=1).requires_grad_()
    symmetric = matrix + matrix.T
    logits = (x @ symmetric * x).sum(dim=1, keepdim=True) / 2
    expected = (x @ symmetric).square().sum(dim=1).mean() / 2
    torch.testing.assert_close(losses.r1_penalty(logits, x), expected)


def test_r1_takes_the_mean_of_a_map_as_the_decision():
    weight, x = double(4, 8, 8), double(3, 4, 8, 8, seed=1).requires_grad_()
    logits = (weight * x).flatten(1).sum(dim=1)[:, None, None, None].expand(3, 1, 8, 8)
    torch.testing.assert_close(losses.r1_penalty(logits, x), weight.square().sum() / 2)


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_gradients_of_the_adversarial_losses(kind):
    real, fake = (double(2, 1, 3, 3, seed=seed).requires_grad_() for seed in (1, 2))
    assert gradcheck(lambda a, b: losses.discriminator_loss(a, b, kind), (real, fake))
    assert gradcheck(lambda a: losses.generator_loss(a, kind, real.detach()), (fake,))


def test_gradients_of_the_reconstruction():
    prediction, target = double(2, 1, 3, 3, seed=1).requires_grad_(), double(2, 1, 3, 3, seed=2)
    assert gradcheck(lambda a: losses.reconstruction_loss(a, target, torch.tensor([0.5, 2.0])), (prediction,))


def test_gradients_of_r1_with_respect_to_the_weights():
    weight, x = double(1, 3, 3, seed=1).requires_grad_(), double(2, 1, 3, 3, seed=2).requires_grad_()
    assert gradcheck(lambda w: losses.r1_penalty((w * x).tanh(), x), (weight,))


@pytest.mark.parametrize("parameterization", ["forward", "posterior"])
def test_gradients_through_a_denoising_step(parameterization):
    t, s = torch.tensor([749, 249]), torch.tensor([499, -1])
    x_0, x_t, target, noise = (double(2, 1, 2, 2, seed=seed) for seed in range(4))

    def loss(x_0_fake: torch.Tensor) -> torch.Tensor:
        _, x_s = denoising_step(lambda *_: x_0_fake, x_t, t, s, noise, SCHEDULE, parameterization)
        return losses.reconstruction_loss(x_s, target, losses.forward_kl_weight(t, s, SCHEDULE))

    assert gradcheck(loss, (x_0.requires_grad_(),))
