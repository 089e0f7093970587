"""An update of each method of distillation on tiny networks: what moves, what it costs, and that it can be taken up again."""

from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from tests.processes import launch
from tests.training.test_engine import share
from ufogen.errors import UserError
from ufogen.randomness import Draws, torch_generator
from ufogen.training.distiller import Distiller
from ufogen.training.loop import fit, make_accelerator

METHODS = {  # the smallest setting in which each does all that it does
    "progressive": {"teacher_steps": 4},
    "consistency": {},
    "dmd2": {"critic_updates": 2},
    "yoso": {},
}
every_method = pytest.mark.parametrize("method", METHODS)


def task(method: str, settings: dict | None = None, **changes) -> Distiller:
    return tiny.distiller(method, settings=METHODS[method] | (settings or {}), **changes)


def prepared(method: str, settings: dict | None = None, **changes) -> Distiller:
    made = task(method, settings, **changes)
    made.prepare(make_accelerator("cpu", "no"))
    return made


def update(made: Distiller, step: int = 0, n: int = 4) -> dict[str, float]:
    scalars = made.update(tiny.batch(step, n), step, Draws(torch_generator("cpu", 0, "test", step)))
    return {name: value.item() for name, value in scalars.items()}


def weights(made: Distiller) -> torch.Tensor:
    """All that is trained, and the average."""
    networks = [made.student, *([made.critic] if made.critic is not None else [])]
    return torch.cat([*map(tiny.flat, networks), *(shadow.flatten() for shadow in made.ema.shadow_params)])


@every_method
def test_updates_are_finite_and_move_student_and_critic_and_nothing_else(method):
    made = prepared(method)
    networks = {"student": made.student, "critic": made.critic, "base": made.base}
    before = {name: tiny.flat(network) for name, network in networks.items() if network is not None}
    for step in range(2):
        assert all(math.isfinite(value) for value in update(made, step).values())
    moved = {name for name in before if not torch.equal(before[name], tiny.flat(networks[name]))}
    assert moved == set(before) - {"base"}


@every_method
def test_the_same_seed_gives_the_same_bytes(method):
    first, second = prepared(method), prepared(method)
    for step in range(2):
        assert update(first, step) == update(second, step)
    assert torch.equal(weights(first), weights(second))


@every_method
@pytest.mark.parametrize("changes", [{}, {"accumulation": 2, "batch_size": 2, "ema_device": "cpu"}], ids=["plain", "divided"])
def test_stopped_and_taken_up_again_it_ends_bit_equal(method, changes, tmp_path):
    """Six updates, a checkpoint every two: stopped in the sixth; progressive distillation is then in its last phase."""

    class Stop(Exception):
        pass

    def stopping(step):
        if step == 5:
            raise Stop
        return tiny.batch(step)

    def train(made, folder, batches):
        accelerator = make_accelerator("cpu", "no")
        settings = {"updates": 6, "seed": 0, "run": "run", "checkpoint_every": 2, "log_every": 1}
        return fit(made, batches, accelerator, folder=tmp_path / folder, **settings)

    made = [task(method, updates=6, warmup=1, decay="cosine", **changes) for _ in range(2)]
    made.append(task(method, updates=6, warmup=1, decay="cosine", seed=1, **changes))  # others, which the checkpoint replaces
    whole, stopped, resumed = made
    assert train(whole, "whole", tiny.batch) == 0
    with pytest.raises(Stop):
        train(stopped, "parts", stopping)
    assert train(resumed, "parts", tiny.batch) == 4
    assert torch.equal(weights(whole), weights(resumed))
    assert not torch.equal(weights(whole), weights(stopped))


@every_method
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_evaluations_are_those_that_are_made(method, guidance, accumulation):
    made = prepared(method, guidance=guidance, updates=4, batch_size=4 // accumulation, accumulation=accumulation)
    counted = []
    for network in {id(n): n for n in (made.student, made.critic, made.target, made.teacher) if n is not None}.values():
        network.unet.register_forward_pre_hook(lambda _, args: counted.append(len(args[0])))
    for step in range(4):
        update(made, step)
    assert sum(counted) == made.unet_evaluations(4)


@every_method
def test_a_loss_falls_when_the_same_update_is_made_again_and_again(method):
    name = {"progressive": "loss", "consistency": "loss", "dmd2": "loss_fake", "yoso": "reconstruction"}[method]
    rate = 1e-5 if method == "consistency" else 1e-3  # student and target start alike
    made = prepared(method, {"critic_updates": 1} if method == "dmd2" else None, updates=100, generator_learning_rate=rate)
    if method == "dmd2":
        made.of_student.peak = 0.0  # the critic alone
    made.ema.copy_to = lambda parameters: None  # the target stays
    values = []
    for _ in range(10):
        scalars = made.update(tiny.batch(0), 0, Draws(torch_generator("cpu", 0, "test", 0)))
        values.append(scalars[name].item())
    assert values[-1] < 0.9 * values[0]


@every_method
def test_division_into_micro_batches_changes_nothing(method):
    whole, divided = prepared(method), prepared(method, accumulation=2, batch_size=2)
    for step in range(2):
        assert update(divided, step) == pytest.approx(update(whole, step), rel=2e-3, abs=1e-4)


def test_student_waits_for_its_critic():
    made, start = prepared("dmd2", {"critic_updates": 3}), []
    for step in range(6):
        before = tiny.flat(made.student)
        scalars = update(made, step)
        start.append(not torch.equal(before, tiny.flat(made.student)))
        assert ("matching" in scalars) == start[-1]
    assert start == [False, False, True] * 2


def test_critics_losses_leave_no_gradient_in_the_student_and_the_students_none_in_the_critic():
    for method in ("dmd2", "yoso"):
        made, seen = prepared(method, {"critic_updates": 1} if method == "dmd2" else None, gradient_clip=0.0), []
        made.of_critic.optimizer.optimizer.register_step_pre_hook(
            lambda *_, made=made, seen=seen: seen.extend(p.grad for p in made.student.parameters())
        )
        update(made)
        assert seen and all(gradient is None for gradient in seen)
        made.of_critic.optimizer.zero_grad()
        assert all(p.requires_grad for p in made.critic.parameters())


def test_a_finished_student_teaches_the_next():
    made = prepared("progressive", {"teacher_steps": 4}, updates=4)
    base = tiny.flat(made.base)
    update(made, 0)
    update(made, 1)
    student = tiny.flat(made.student)
    assert torch.equal(tiny.flat(made.teacher), base)
    update(made, 2)
    assert torch.equal(tiny.flat(made.teacher), student)
    update(made, 3)
    with made.averaged(2) as network:  # the student of two steps is the one that the first phase left
        assert torch.equal(tiny.flat(network), student)
    with made.averaged(1) as network:
        assert not torch.equal(tiny.flat(network), student)
    with pytest.raises(UserError, match="no student of 4 steps; allowed: 2, 1"), made.averaged(4):
        pass


def test_guidance_ends_with_the_first_phase():
    made, seen = prepared("progressive", {"teacher_steps": 4}, updates=2), []
    made.teacher.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    update(made, 0)
    update(made, 1)
    assert seen == [8, 8, 4, 4]


def test_each_phase_has_its_own_schedule_of_the_learning_rate():
    made, rates = prepared("progressive", {"teacher_steps": 4}, updates=8, decay="cosine"), []
    for step in range(8):
        update(made, step)
        rates.append(made.of_student.optimizer.param_groups[0]["lr"])
    assert rates[:4] == rates[4:] and rates[0] > rates[1] > rates[2] > rates[3] > 0


def test_target_is_the_average_of_the_updates_before():
    made = prepared("consistency", ema_decay=0.5)
    update(made, 0)
    average = torch.cat([shadow.flatten() for shadow in made.ema.shadow_params])
    update(made, 1)
    assert torch.equal(tiny.flat(made.target), average)
    assert not torch.equal(average, tiny.flat(made.student))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("consistency", {"sharding": "full"}, "trainer.sharding is full; allowed with a distillation: none"),
        ("progressive", {"updates": 1}, "trainer.updates is 1; allowed with 2 phases: 2 or greater"),
    ],
)
def test_settings_that_do_not_go_with_a_method_are_refused(method, changes, message):
    with pytest.raises(UserError, match=message):
        prepared(method, **changes)


def run(path, method: str) -> None:
    """Train on this process's share of a global batch of four."""
    accelerator = make_accelerator("cpu", "no")
    made = task(method)
    made.prepare(accelerator)
    rank, processes = accelerator.process_index, accelerator.num_processes
    for step in range(4):
        made.update(share(step, rank, processes), step, Draws(torch_generator("cpu", 0, "test", step), rank, processes))
    if accelerator.is_main_process:
        torch.save({"processes": processes, "weights": weights(made)}, path)


@pytest.mark.slow
@every_method
def test_two_processes_train_what_one_trains(method, tmp_path):
    run(tmp_path / "one.pt", method)
    launch(run, tmp_path / "two.pt", method)
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert two["processes"] == 2
    moved = (one["weights"] - weights(prepared(method))).norm()
    assert (two["weights"] - one["weights"]).norm() < 1e-2 * moved
