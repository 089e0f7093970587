"""Progressive distillation against two DDIM steps in closed form."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.settings import make_distillation
from ufogen.distillation.method import Networks
from ufogen.distillation.methods import make_method
from ufogen.distillation.progressive import progressive_target, x_0_of_step
from ufogen.distillation.teacher import ddim_step
from ufogen.errors import UserError
from ufogen.randomness import Draws, torch_generator

SCHEDULE = tiny.schedule()
STEPS = [(999, 749, 499), (499, 249, -1), (124, 62, -1), (30, 15, 0)]


def linear(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[x_0|x_t] of Gaussian data N(0.3, 0.7^2): linear in x_t."""
    alpha_bar = SCHEDULE.alpha_bar(t, like=x_t)
    gain = alpha_bar.sqrt() * 0.49 / (alpha_bar * 0.49 + 1 - alpha_bar)
    return 0.3 + gain * (x_t - alpha_bar.sqrt() * 0.3)


def times(*values: int, n: int = 4) -> list[torch.Tensor]:
    return [torch.full((n,), value) for value in values]


@pytest.mark.parametrize("steps", STEPS)
def test_one_step_with_the_target_ends_where_two_steps_of_the_teacher_end(steps):
    t, middle, s = times(*steps)
    x_t = tiny.latents(4).double()
    x_middle = ddim_step(linear(x_t, t), x_t, t, middle, SCHEDULE)
    expected = ddim_step(linear(x_middle, middle), x_middle, middle, s, SCHEDULE)
    target = progressive_target(linear, x_t, t, middle, s, SCHEDULE)
    torch.testing.assert_close(ddim_step(target, x_t, t, s, SCHEDULE), expected, rtol=1e-9, atol=1e-9)
    assert (target - linear(x_t, t)).abs().max() > 1e-4  # it is not what the teacher sees at t


def test_a_teacher_that_always_sees_the_same_is_its_own_target():
    x_0, (t, middle, s) = tiny.latents(4).double(), times(999, 749, 499)
    target = progressive_target(lambda x_t, t: x_0, tiny.latents(4, seed=1).double(), t, middle, s, SCHEDULE)
    torch.testing.assert_close(target, x_0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t", "s"), [(999, 968), (999, -1), (30, -1), (62, 30)])
def test_x_0_of_a_step_undoes_it(t, s):
    x_0, x_t, (t, s) = tiny.latents(4).double(), tiny.latents(4, seed=1).double(), times(t, s)
    torch.testing.assert_close(x_0_of_step(ddim_step(x_0, x_t, t, s, SCHEDULE), x_t, t, s, SCHEDULE), x_0, rtol=1e-8, atol=1e-8)


def drawn(phase: int, n: int = 400):
    method = make_method(make_distillation("progressive"), SCHEDULE, "v_prediction")
    return method, method.draw(tiny.latents(n), {}, Draws(torch_generator("cpu", 0, "test")), phase)


def test_phases_halve_the_steps_down_to_one():
    method, _ = drawn(0)
    assert method.phases == 5
    assert [method.student_steps(phase) for phase in range(5)] == [16, 8, 4, 2, 1]
    assert [method.phase_of(steps) for steps in (4, 2, 1)] == [2, 3, 4]
    with pytest.raises(UserError, match="no student of 3 steps; allowed: 16, 8, 4, 2, 1"):
        method.phase_of(3)


@pytest.mark.parametrize(
    ("phase", "t", "s"), [(4, {999}, {-1}), (3, {999, 499}, {499, -1}), (2, {999, 749, 499, 249}, {749, 499, 249, -1})]
)
def test_a_student_learns_at_the_timesteps_that_it_is_sampled_at(phase, t, s):
    method, items = drawn(phase)
    assert set(items.t.tolist()) == t == set(method.timesteps(method.student_steps(phase)))
    assert set(items.s.tolist()) == s
    assert ((items.t > items.middle) & (items.middle > items.s)).all()


def test_first_students_timesteps_are_all_of_its_grid():
    method, items = drawn(0)
    assert sorted(set(items.t.tolist()), reverse=True) == method.timesteps(16)


def test_loss_weighs_by_the_truncated_snr():
    method, items = drawn(2, n=4)
    items.t, items.middle, items.s = times(249, 124, -1)
    target = progressive_target(linear, items.x_t, items.t, items.middle, items.s, SCHEDULE)
    loss, _ = method.student_loss(Networks(student=None, teacher=linear), items, target + 1)
    assert loss.item() == pytest.approx(2.0810, rel=1e-3)  # SNR at 249 of Stable Diffusion's schedule
    items.t, items.middle, items.s = times(999, 749, 499)
    target = progressive_target(linear, items.x_t, items.t, items.middle, items.s, SCHEDULE)
    loss, _ = method.student_loss(Networks(student=None, teacher=linear), items, target + 1)
    assert loss.item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("steps", [1, 12, 0])
def test_steps_that_cannot_be_halved_are_one_line(steps):
    with pytest.raises(UserError, match=rf"parameter teacher_steps is {steps}; allowed: "):
        make_distillation("progressive", teacher_steps=steps)


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(UserError, match="distillation.teacher_steps is 1024; allowed: at most 1000"):
        make_method(make_distillation("progressive", teacher_steps=1024), SCHEDULE, "v_prediction")
