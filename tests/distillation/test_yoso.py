"""YOSO: what D calls real, and the weights of its two regressions."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.settings import make_distillation
from ufogen.diffusion.losses import EQUILIBRIUM
from ufogen.distillation.method import Networks
from ufogen.distillation.methods import make_method
from ufogen.distillation.yoso import capped_snr, consistency_weight
from ufogen.randomness import Draws, torch_generator

SCHEDULE = tiny.schedule()


def method(**changes):
    return make_method(make_distillation("yoso", **changes), SCHEDULE, "v_prediction")


def drawn(n: int = 400):
    return method().draw(tiny.latents(n), {}, Draws(torch_generator("cpu", 0, "test")), 0)


def zero_logits(x, t):
    return torch.zeros(len(x), 1, *x.shape[2:])


def test_less_noisy_inputs_share_data_and_noise():
    items = drawn()
    assert torch.equal(items.u, (items.t - 250).clamp(min=0)) and torch.equal(items.v, (items.t - 25).clamp(min=0))
    for x, t in ((items.x_t, items.t), (items.x_u, items.u), (items.x_v, items.v)):
        alpha_bar = SCHEDULE.alpha_bar(t, like=x)
        noise = (x - alpha_bar.sqrt() * items.x_0) / (1 - alpha_bar).sqrt()
        assert noise.std().item() == pytest.approx(1.0, abs=0.01)
    at_t, at_u = (
        (x - a.sqrt() * items.x_0) / (1 - a).sqrt()
        for x, a in (
            (items.x_t, SCHEDULE.alpha_bar(items.t, like=items.x_t)),
            (items.x_u, SCHEDULE.alpha_bar(items.u, like=items.x_u)),
        )
    )
    torch.testing.assert_close(at_t, at_u, rtol=1e-3, atol=1e-3)


def test_discriminators_real_is_the_generators_own_from_less_noise():
    items, seen = drawn(4), []

    def critic(x, t):
        seen.append((x, t))
        return zero_logits(x, t)

    networks = Networks(student=lambda x_t, t: 2 * x_t, teacher=None, critic=critic)
    fake = tiny.latents(4, seed=5)
    _, found = method().critic_loss(networks, items, fake)
    ((x, t),) = seen
    torch.testing.assert_close(x[:4], 2 * items.x_u)
    torch.testing.assert_close(x[4:], fake)
    assert torch.equal(t, torch.cat([items.t, items.t]))
    assert found["loss_d"].item() == pytest.approx(EQUILIBRIUM["nonsaturating"])


def test_consistency_is_nothing_for_a_generator_that_always_sees_the_same():
    items, networks = drawn(64), Networks(student=lambda x_t, t: torch.full_like(x_t, 0.4), teacher=None, critic=zero_logits)
    items.t, items.v = torch.full((64,), 500), torch.full((64,), 475)
    _, found = method().student_loss(networks, items, method().generate(networks, items))
    assert found["consistency"].item() < 1e-9
    _, found = method().student_loss(networks, items, method().generate(networks, items) + 0.1)
    weight = consistency_weight(items.t[:1], items.v[:1], SCHEDULE, 5.0).item()
    assert found["consistency"].item() == pytest.approx(weight * 0.01, rel=1e-2)


def test_reconstruction_is_nothing_at_the_data():
    items, networks = drawn(8), Networks(student=lambda x_t, t: x_t, teacher=None, critic=zero_logits)
    _, found = method().student_loss(networks, items, items.x_0)
    assert found["reconstruction"].item() == 0
    assert found["loss_g"].item() == pytest.approx(EQUILIBRIUM["nonsaturating"] / 2)


def test_total_is_the_weighted_sum_and_only_g_gets_its_gradient():
    items, student = drawn(8), lambda x_t, t: 0.5 * x_t
    networks = Networks(student=student, teacher=None, critic=zero_logits)
    x = method().generate(networks, items).requires_grad_()
    loss, found = method(consistency_weight=3.0, reconstruction_weight=7.0).student_loss(networks, items, x)
    assert loss.item() == pytest.approx(
        (found["loss_g"] + 3 * found["consistency"] + 7 * found["reconstruction"]).item(), rel=1e-5
    )
    loss.backward()
    assert x.grad.abs().sum() > 0


def test_weights_are_capped_and_finite_down_to_clean_data():
    t = torch.tensor([0, 10, 25, 100, 500, 999])
    v = (t - 25).clamp(min=0)
    found = consistency_weight(t, v, SCHEDULE, 5.0)
    assert torch.isfinite(found).all() and found.max() == 5
    r_t, r_v = SCHEDULE.snr(t).sqrt(), SCHEDULE.snr(v).sqrt()
    expected = 1 / (1 / r_t[4:] - 1 / r_v[4:])
    torch.testing.assert_close(found[4:], expected.clamp(max=5))
    assert capped_snr(t, SCHEDULE, 5.0).tolist()[:2] == [5.0, 5.0]
    assert capped_snr(t, SCHEDULE, 5.0)[-1].item() == pytest.approx(0.0047, rel=1e-2)
