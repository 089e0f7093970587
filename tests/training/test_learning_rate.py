"""The learning rate as a function of the update."""

import pytest
import torch

from ufogen.training.learning_rate import learning_rate, set_learning_rate


def test_warm_up_rises_evenly_to_the_peak():
    assert [learning_rate(step, 8.0, warmup=4, updates=100) for step in range(5)] == [2, 4, 6, 8, 8]


def test_cosine_falls_to_half_halfway_and_to_nothing_at_the_end():
    rates = [learning_rate(step, 8.0, warmup=10, updates=110) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)
    assert rates[50] == pytest.approx(4)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[99] > 0  # the last update still learns


def test_constant_stays_at_the_peak():
    assert {learning_rate(step, 8.0, 4, 100, "constant") for step in (3, 4, 50, 99)} == {8.0}


def test_no_warm_up_starts_at_the_peak():
    assert learning_rate(0, 8.0, warmup=0, updates=100) == 8.0


def test_run_that_ends_in_its_warm_up_has_a_rate():
    assert learning_rate(9, 8.0, warmup=20, updates=10) == 4.0


def test_every_group_of_the_optimizer_is_set():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    optimizer = torch.optim.Adam(groups, lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
