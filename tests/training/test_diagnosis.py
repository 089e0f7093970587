"""What D knows and what G hears, at networks whose answer is known."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.settings import make_objective
from ufogen.randomness import Draws, torch_generator
from ufogen.training.diagnosis import diagnose
from ufogen.training.loop import make_accelerator


def found(objective: dict, weight: float = 0.0, n: int = 32) -> tuple[dict[str, float], dict]:
    task = tiny.task(make_objective(**objective), batch_size=n)
    torch.nn.init.constant_(task.discriminator.unet.conv_out.weight, weight)
    task.prepare(make_accelerator("cpu", "no"))
    before = [tiny.flat(network).clone() for network in (task.generator, task.discriminator)]
    result = diagnose(task, tiny.batch(0, n), Draws(torch_generator("cpu", 0, "diagnosis")))
    assert all(map(torch.equal, before, map(tiny.flat, (task.generator, task.discriminator))))
    assert all(parameter.grad is None for parameter in task.generator.parameters())
    return result


LAW = {"timesteps": "uniform", "s_law": "uniform", "s_low": 0, "s_high": 999, "entry_share": 0.5}


def test_undecided_discriminator_is_never_right_and_hands_nothing_on():
    result = found(LAW | {"entry_noise": "pure"})
    assert {name: value for name, value in result.items() if name.startswith("accuracy")} == {
        f"accuracy_d_{i}": 0 for i in range(4)
    }
    assert result["gradient_adversarial_entry"] == result["gradient_adversarial_below"] == 0
    assert result["gradient_reconstruction_entry"] == 0 < result["gradient_reconstruction_below"]


@pytest.mark.parametrize("adversarial", ["nonsaturating", "relativistic"])
def test_deciding_discriminator_hands_gradients_on(adversarial):
    result = found(LAW | {"adversarial": adversarial}, weight=0.1)
    assert result["gradient_adversarial_entry"] > 0 and result["gradient_reconstruction_entry"] > 0
    assert all(0 <= result[f"accuracy_d_{i}"] <= 1 for i in range(4))


def test_bins_without_items_and_terms_that_are_off():
    result = found(LAW | {"s_high": 1, "reconstruction": "none"})
    assert [name for name in result if name.startswith("accuracy")] == ["accuracy_d_0"]
    assert result["gradient_reconstruction_below"] == 0
