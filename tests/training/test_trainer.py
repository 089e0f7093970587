"""One update of G and D, seen from outside: what goes into the networks and what comes out changed."""

import contextlib
import functools
import itertools
import math
import sys
import weakref

import pytest
import torch

from tests import tiny
from tests.settings import make_objective
from ufogen import config
from ufogen.diffusion import losses
from ufogen.errors import UserError
from ufogen.randomness import Draws, torch_generator
from ufogen.training.loop import make_accelerator
from ufogen.training.trainer import AdversarialTrainer


class Calls:
    """The inputs of each forward pass of a network's U-Net."""

    def __init__(self, network: torch.nn.Module):
        self.inputs = []
        network.unet.register_forward_pre_hook(
            lambda _, args, kwargs: self.inputs.append((args[0].detach().clone(), args[1].clone())), with_kwargs=True
        )

    @property
    def batch_sizes(self) -> list[int]:
        return [len(x) for x, _ in self.inputs]

    @property
    def timesteps(self) -> list[int]:
        return torch.cat([t for _, t in self.inputs]).tolist()


def generator_weights(task: AdversarialTrainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in task.generator.parameters()]


def prepared(objective: config.Objective | None = None, decided: bool = False, **changes) -> AdversarialTrainer:
    """A task ready to update; `decided` gives D a head that is not zero, so that G feels it at once."""
    task = tiny.task(objective, **changes)
    if decided:
        torch.manual_seed(1)
        head = task.discriminator.unet.conv_out
        torch.nn.init.normal_((head[-1] if isinstance(head, torch.nn.Sequential) else head).weight)
    task.prepare(make_accelerator("cpu", "no"))
    return task


def update(task: AdversarialTrainer, step: int = 0, n: int = 4) -> dict[str, float]:
    scalars = task.update(tiny.batch(step, n), step, Draws(torch_generator("cpu", 0, "test", step)))
    return {name: value.item() for name, value in scalars.items()}


def weights(task: AdversarialTrainer) -> tuple[torch.Tensor, torch.Tensor]:
    return tiny.flat(task.generator), tiny.flat(task.discriminator)


@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize("broken", ["latents", "gradient of G"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_said(broken, clip):
    task = prepared(decided=True, gradient_clip=clip)
    update(task)
    state = task.optimizer_g.state_dict()["state"][0]
    before, average = weights(task), torch.cat([x.flatten() for x in task.ema.shadow_params])
    moments = {name: value.clone() for name, value in state.items()}
    batch = tiny.batch(1)
    if broken == "latents":
        batch.latents[0, 0, 0, 0] = float("inf")
    else:
        weight = task.generator.unet.conv_in.weight
        hook = weight.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
    found = task.update(batch, 1, Draws(torch_generator("cpu", 0, "test", 1)))
    assert "skipped" in found
    after = weights(task)
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1]) == (broken == "latents")
    assert torch.equal(torch.cat([x.flatten() for x in task.ema.shadow_params]), average)
    assert all(torch.equal(task.optimizer_g.state_dict()["state"][0][name], value) for name, value in moments.items())
    if broken != "latents":
        hook.remove()
    assert "skipped" not in update(task, 2)
    assert not torch.equal(weights(task)[0], after[0])


def test_update_changes_both_networks():
    task = prepared()
    before = weights(task)
    update(task)
    after = weights(task)
    assert not torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_first_update_starts_at_the_equilibrium():
    scalars = update(prepared())
    assert scalars["loss_d"] == pytest.approx(losses.EQUILIBRIUM["nonsaturating"])
    assert scalars["logit_real"] == scalars["logit_fake"] == 0
    assert all(math.isfinite(value) for value in scalars.values())


@pytest.mark.parametrize(("network", "position"), [("generator", 0), ("discriminator", 1)])
def test_learning_rate_0_stops_one_network_alone(network, position):
    task = prepared(**{f"{network}_learning_rate": 0.0})
    before = weights(task)
    update(task)
    unchanged = [torch.equal(a, b) for a, b in zip(before, weights(task), strict=True)]
    assert unchanged == [position == 0, position == 1]


def test_discriminators_loss_leaves_no_gradient_in_the_generator():
    task, seen = prepared(decided=True), []
    task.optimizer_d.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(parameter.grad for parameter in task.generator.parameters())
    )
    update(task)
    assert seen
    assert all(gradient is None for gradient in seen)


def test_generators_loss_leaves_no_gradient_in_the_discriminator():
    task, seen = prepared(decided=True, gradient_clip=0.0), []
    task.optimizer_d.optimizer.register_step_post_hook(
        lambda *_: seen.extend(parameter.grad.clone() for parameter in task.discriminator.parameters())
    )
    update(task)
    after = [parameter.grad for parameter in task.discriminator.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(seen, after, strict=True))


def test_generator_feels_the_discriminator():
    """Without reconstruction only D can move G: a zero head does not, a decided one does."""
    alone = make_objective(reconstruction="none", r1_weight=0)
    undecided, decided = (prepared(alone, decided, discriminator_learning_rate=0.0) for decided in (False, True))
    start = tiny.flat(undecided.generator)
    update(undecided)
    update(decided)
    assert torch.equal(tiny.flat(undecided.generator), start)
    assert not torch.equal(tiny.flat(decided.generator), start)


def test_generator_descends_its_adversarial_loss():
    """D fixed, the same update again and again: G learns to fool it."""
    task = prepared(make_objective(reconstruction="none", r1_weight=0), decided=True, discriminator_learning_rate=0.0)
    values = [update(task, step=0)["loss_g"] for _ in range(8)]
    assert values[-1] < 0.9 * values[0]


def test_discriminator_descends_its_loss():
    on_clean_data = make_objective(step_size=1000, r1_weight=0)  # where real and fake are far apart
    task = prepared(on_clean_data, generator_learning_rate=0.0, discriminator_learning_rate=3e-3)
    values = [update(task, step=0)["loss_d"] for _ in range(8)]
    assert values[-1] < 0.9 * values[0]


def test_generator_descends_its_reconstruction():
    task = prepared(make_objective(r1_weight=0), discriminator_learning_rate=0.0)
    values = [update(task, step=0)["reconstruction"] for _ in range(8)]
    assert values[-1] < 0.9 * values[0]


def test_r1_pulls_the_discriminators_slope_down():
    task = prepared(make_objective(r1_weight=1000.0, r1_interval=1), decided=True, generator_learning_rate=0.0)
    values = [update(task, step=0)["r1"] for _ in range(8)]
    assert values[-1] < 0.9 * values[0]


def test_r2_is_the_penalty_of_the_fakes_under_their_captions():
    task, seen = prepared(make_objective(r1_weight=0.0, r2_weight=1.0, r1_interval=1, mismatched_share=0.5), decided=True), []
    task.discriminator.register_forward_hook(
        lambda module, inputs, caption, output: seen.append((inputs[0], caption["prompt_embeds"])), with_kwargs=True
    )
    scalars = update(task)
    assert "r2" in scalars and "r1" not in scalars and scalars["r2"] > 0
    (both, prompt_embeds), (penalized, its) = seen[:2]
    torch.testing.assert_close(penalized, both[4:])
    torch.testing.assert_close(its, prompt_embeds[4:])


def test_both_penalties_count_as_passes():
    task = prepared(make_objective(r1_interval=2, r2_weight=1.0))
    g, d = Calls(task.generator), Calls(task.discriminator)
    for step in range(3):
        update(task, step)
    assert d.batch_sizes == [8, 4, 4, 4, 8, 4, 8, 4, 4, 4]
    assert sum(g.batch_sizes + d.batch_sizes) == task.unet_evaluations(3)


@pytest.mark.parametrize("interval", [1, 2])
def test_update_passes_g_once_and_d_twice_and_once_more_for_r1(interval):
    task = prepared(make_objective(r1_interval=interval))
    g, d = Calls(task.generator), Calls(task.discriminator)
    for step in range(3):
        update(task, step)
    with_r1, without = [8, 4, 4], [8, 4]
    assert g.batch_sizes == [4, 4, 4]
    assert d.batch_sizes == with_r1 + (with_r1 if interval == 1 else without) + with_r1
    assert sum(g.batch_sizes + d.batch_sizes) == task.unet_evaluations(3)


def test_relativistic_generator_costs_a_pass_of_d_on_real_samples_more():
    task = prepared(make_objective(adversarial="relativistic", r1_weight=0.0))
    g, d = Calls(task.generator), Calls(task.discriminator)
    update(task)
    assert (g.batch_sizes, d.batch_sizes) == ([4], [8, 4, 4])
    assert sum(g.batch_sizes + d.batch_sizes) == task.unet_evaluations(1)


def test_discriminator_learns_alone_at_first_and_then_the_generators_rate_rises():
    task = prepared(make_objective(r1_weight=0.0), discriminator_first=2, generator_warmup=2, updates=5, decay="constant")
    g, d = Calls(task.generator), Calls(task.discriminator)
    start, average = generator_weights(task), [x.clone() for x in task.ema.shadow_params]
    rates = []
    for step in range(4):
        update(task, step)
        rates.append(task.optimizer_g.param_groups[0]["lr"])
        moved = not all(map(torch.equal, start, generator_weights(task)))
        assert moved == (step >= 2)
        assert moved != all(map(torch.equal, average, task.ema.shadow_params))
    assert d.batch_sizes == [8, 8, 8, 4, 8, 4]
    assert sum(g.batch_sizes + d.batch_sizes) == task.unet_evaluations(4)
    assert rates[2:] == [0.5e-3, 1e-3]


@pytest.mark.parametrize(
    "objective, changes, message",
    [
        ({"statistics_group": 3}, {}, "objective.statistics_group is 3; allowed: 0 and divisors of trainer.batch_size 4"),
        ({}, {"discriminator_first": 4}, "trainer.discriminator_first is 4; allowed: 0 ... 3, below trainer.updates"),
    ],
)
def test_settings_that_do_not_fit_one_another_are_user_errors(objective, changes, message):
    with pytest.raises(UserError, match=message):
        tiny.task(make_objective(**objective), **changes)


def test_without_r1_no_pass_is_spent_on_it():
    task = prepared(make_objective(r1_weight=0))
    g, d = Calls(task.generator), Calls(task.discriminator)
    scalars = update(task)
    assert (g.batch_sizes, d.batch_sizes) == ([4], [8, 4])
    assert "r1" not in scalars
    assert task.unet_evaluations(1) == 16


@pytest.mark.slow
def test_compiled_update_does_what_the_eager_one_does(monkeypatch):
    """R1 included, which goes round what is compiled: that cannot be differentiated twice. Traced, but not by inductor."""
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    eager, compiled = (prepared(make_objective(r1_interval=1), decided=True, compile=c) for c in (False, True))
    for step in range(2):
        assert update(compiled, step) == pytest.approx(update(eager, step), rel=1e-3, abs=1e-5)


def test_repeated_blocks_are_compiled_for_g_and_for_both_uses_of_d(monkeypatch):
    passes = []

    def count(block, **_):
        forward = block.forward
        block.forward = lambda *args, **kwargs: passes.append(block) or forward(*args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "compile", count)
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: contextlib.nullcontext(passes.append(stance)))
    task = prepared(make_objective(r1_interval=1), compile=True)
    update(task)
    of_g, of_d = ({id(m) for m in n.modules()} for n in (task.generator, task.discriminator))
    order = ["G" if id(x) in of_g else "D" if id(x) in of_d else x for x in passes]
    assert [name for name, _ in itertools.groupby(order)] == ["G", "D", "force_eager", "D"]
    assert order.count("D") == 3 * order.count("G")  # real and fake together, R1, G's loss


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (make_objective(), {999, 749, 499, 249}),
        (make_objective(minimum_timestep=500), {999, 749}),
        (make_objective(minimum_timestep=499), {999, 749, 499}),
        (make_objective(minimum_timestep=999), {999}),
        (make_objective(step_size=500), {999, 499}),
        (make_objective(step_size=1000), {999}),
    ],
    ids=["default", "from 500", "from 499", "last alone", "step 500", "step 1000"],
)
def test_generator_is_trained_on_the_grid(objective, expected):
    task = prepared(objective)
    g = Calls(task.generator)
    update(task, n=64)
    assert set(g.timesteps) == expected


def test_uniform_timesteps_spread_from_the_minimum_to_the_last():
    task = prepared(make_objective(timesteps="uniform", minimum_timestep=900))
    g = Calls(task.generator)
    for step in range(2):
        update(task, step, n=200)
    assert min(g.timesteps) == 900
    assert max(g.timesteps) == 999
    assert len(set(g.timesteps)) > 90  # of 100, in 400 draws


def test_discriminator_judges_at_the_timestep_one_step_size_below():
    task = prepared(make_objective(timesteps="uniform", r1_weight=0))
    g, d = Calls(task.generator), Calls(task.discriminator)
    update(task, n=32)
    s = [max(t - 250, 0) for t in g.timesteps]  # clean data goes in under timestep 0
    assert d.timesteps == s + s + s
    assert 0 in s


@pytest.mark.parametrize("parameterization", ["forward", "posterior"])
def test_step_size_1000_is_an_ordinary_gan_on_clean_data(parameterization):
    task = prepared(make_objective(step_size=1000, r1_weight=0, parameterization=parameterization))
    g, d, fakes = Calls(task.generator), Calls(task.discriminator), []
    task.generator.register_forward_hook(lambda _, __, output: fakes.append(output.detach()))
    update(task)
    real, fake = d.inputs[0][0].chunk(2)
    assert torch.equal(real, tiny.batch(0).latents.float())
    assert torch.equal(fake, fakes[0])
    assert set(g.timesteps) == {999}
    assert set(d.timesteps) == {0}


@pytest.mark.parametrize(("coupling", "expected"), [("independent", 0.0), ("chained", 0.2081)])
def test_noise_of_x_s_is_in_x_t_only_when_chained(coupling, expected):
    """At x_0 = 0, t = 499 and s = 249, E x_s x_t is sqrt(abar_t / abar_s) (1 - abar_s) = 0.2081 when chained."""
    task = prepared(make_objective(coupling=coupling, minimum_timestep=499, timesteps="uniform", r1_weight=0))
    g, d = Calls(task.generator), Calls(task.discriminator)
    batch = tiny.batch(0, 256)
    batch.latents.zero_()
    draws = Draws(torch_generator("cpu", 0, "coupling"))
    draws.integers = lambda low, high, n: torch.full((n,), 499)
    task.update(batch, 0, draws)
    x_t, x_s = g.inputs[0][0], d.inputs[0][0].chunk(2)[0]
    assert (x_t * x_s).mean().item() == pytest.approx(expected, abs=0.02)  # four standard errors
    assert x_t.var().item() == pytest.approx(1 - 0.2777, abs=0.04)
    assert x_s.var().item() == pytest.approx(1 - 0.6754, abs=0.02)


@pytest.mark.parametrize(("parameterization", "correlated"), [("forward", False), ("posterior", True)])
def test_posterior_alone_keeps_a_share_of_x_t_in_x_s(parameterization, correlated):
    task = prepared(make_objective(parameterization=parameterization, minimum_timestep=999, r1_weight=0))
    g, d, fakes = Calls(task.generator), Calls(task.discriminator), []
    task.generator.register_forward_hook(lambda _, __, output: fakes.append(output.detach()))
    update(task, n=64)
    x_t, x_s = g.inputs[0][0], d.inputs[0][0].chunk(2)[1]
    c_0 = 0.219395 if correlated else math.sqrt(0.056623492)  # golden/schedule.yaml, 999 -> 749
    share = ((x_s - c_0 * fakes[0]) * x_t).mean() / x_t.square().mean()
    assert share.item() == pytest.approx(0.271902 if correlated else 0.0, abs=0.03)


@pytest.mark.parametrize(
    ("axis", "value"),
    [
        ("parameterization", "posterior"),
        ("reconstruction", "x_s"),
        ("reconstruction", "none"),
        ("gamma", "truncated_snr"),
        ("gamma", "constant"),
        ("reconstruction_weight", 0.5),
        ("coupling", "chained"),
        ("step_size", 50),
        ("timesteps", "uniform"),
        ("minimum_timestep", 900),
        ("adversarial", "clamped_bce"),
        ("adversarial", "relativistic"),
        ("s_law", "uniform"),
        ("s_law", "lognormal"),
        ("discriminator_heads", "both"),
        ("discriminator_heads", "levels"),
        ("discriminator_trained", "heads"),
        ("statistics_group", 4),
        ("r1_weight", 0.0),
        ("r1_interval", 8),
        ("r2_weight", 1.0),
    ],
)
def test_every_value_of_every_axis_runs_and_differs(axis, value):
    default, changed = (prepared(make_objective(**change), decided=True, batch_size=16) for change in ({}, {axis: value}))
    for task in (default, changed):
        scalars = update(task, n=16)
        assert all(math.isfinite(scalar) for scalar in scalars.values())
    assert not all(map(torch.equal, *map(generator_weights, (default, changed))))


def test_update_is_a_function_of_its_draws():
    first, second = prepared(), prepared()
    assert update(first) == update(second)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_average_follows_the_generator():
    task = prepared(ema_decay=0.5)
    before = tiny.flat(task.generator)
    for step in range(3):
        update(task, step)
    average = torch.cat([parameter.flatten() for parameter in task.ema.shadow_params])
    assert not torch.equal(average, before)
    assert not torch.equal(average, tiny.flat(task.generator))


def test_gradient_clip_bounds_both_gradients():
    task, norms = prepared(decided=True, gradient_clip=1e-3), []
    for optimizer, network in ((task.optimizer_g, task.generator), (task.optimizer_d, task.discriminator)):
        optimizer.optimizer.register_step_pre_hook(
            lambda *_, network=network: norms.append(
                torch.nn.utils.get_total_norm([p.grad for p in network.parameters()]).item()
            )
        )
    update(task)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-2)


def test_standard_deviation_is_that_of_one_step_samples():
    task, fakes = prepared(make_objective(minimum_timestep=999)), []
    task.generator.register_forward_hook(lambda _, __, output: fakes.append(output.detach()))
    assert update(task)["std_last"] == pytest.approx(fakes[0].std().item())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (make_objective(step_size=1001), r"objective\.step_size is 1001; allowed: 1 \.\.\. 1000"),
        (make_objective(minimum_timestep=1000), r"objective\.minimum_timestep is 1000; allowed: 0 \.\.\. 999"),
    ],
    ids=["step 1001", "minimum 1000"],
)
def test_objective_that_does_not_fit_the_schedule_is_a_user_error(objective, message):
    with pytest.raises(UserError, match=message):
        tiny.task(objective)


def test_step_size_is_drawn_for_each_item_between_its_bounds():
    task = prepared(make_objective(minimum_timestep=999, step_size=100, step_size_max=400, r1_weight=0))
    d = Calls(task.discriminator)
    for step in range(4):
        update(task, step, n=64)
    k = [999 - s for s in d.timesteps]
    assert 100 <= min(k) < 120
    assert 380 < max(k) <= 400


def test_step_size_beyond_t_reaches_clean_data():
    task = prepared(make_objective(minimum_timestep=999, step_size=1000, step_size_max=0, r1_weight=0))
    d = Calls(task.discriminator)
    update(task)
    assert set(d.timesteps) == {0}


def test_largest_step_size_beyond_the_schedule_is_refused():
    with pytest.raises(UserError, match=r"step_size_max is 1001; allowed: 0, 250 ... 1000"):
        prepared(make_objective(step_size=250, step_size_max=1001))


def test_joint_discriminator_sees_x_t_beside_x_s():
    task = prepared(make_objective(discriminator_input="joint", timesteps="uniform", r1_interval=1))
    g, d = Calls(task.generator), Calls(task.discriminator)
    update(task)
    x_t = g.inputs[0][0]
    assert [x.shape[1] for x, _ in d.inputs] == [8, 8, 8]
    real, fake = d.inputs[0][0][:, 4:].chunk(2)
    assert torch.equal(real, x_t) and torch.equal(fake, x_t)
    assert torch.equal(d.inputs[2][0][:, 4:], x_t)  # in G's loss too


def test_joint_discriminator_learns_from_x_t():
    task = prepared(make_objective(discriminator_input="joint"), decided=True)
    before = task.discriminator.unet.conv_in.weight.detach().clone()
    assert not before[:, 4:].any()
    update(task)
    assert task.discriminator.unet.conv_in.weight[:, 4:].any()


@pytest.mark.parametrize(("network", "position"), [("generator", 0), ("discriminator", 1)])
def test_each_network_can_start_from_scratch(network, position):
    base = weights(tiny.task())
    scratch = weights(tiny.task(make_objective(**{f"{network}_init": "scratch"})))
    changed = [not torch.equal(a, b) for a, b in zip(base, scratch, strict=True)]
    assert changed == [position == 0, position == 1]


def test_accumulation_passes_g_again_once_d_has_moved():
    task = prepared(make_objective(r1_interval=2), batch_size=2, accumulation=2)
    of_g, of_d = Calls(task.generator), Calls(task.discriminator)
    for step in range(6):
        update(task, step)
    assert set(of_g.batch_sizes) == {2}
    assert set(of_d.batch_sizes) == {2, 4}
    assert len(of_g.batch_sizes) == 24
    assert sum(of_g.batch_sizes + of_d.batch_sizes) == task.unet_evaluations(6)


def test_accumulation_holds_one_graph_of_g_at_a_time():
    task, alive, most = prepared(batch_size=1, accumulation=4), [], []

    def watch(_, __, output):
        most.append(sum(graph() is not None for graph in alive))
        if output.grad_fn is not None:
            alive.append(weakref.ref(output))

    task.generator.register_forward_hook(watch)
    update(task)
    assert len(alive) == 4
    assert most == [0] * 8


def test_8_bit_adam_without_its_package_is_a_user_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"trainer\.optimizer is adam8bit.*bitsandbytes"):
        prepared(optimizer="adam8bit")


def test_r1_in_x_0_is_alpha_bar_s_times_that_in_x_s():
    """On one timestep alone the two penalties differ by one factor."""
    found = {}
    for variable in ("x_s", "x_0"):
        task = prepared(make_objective(minimum_timestep=999, r1_interval=1, r1_variable=variable), decided=True)
        found[variable] = update(task)["r1"]
    alpha_bar = tiny.schedule().alpha_bar(torch.tensor([749])).item()
    assert found["x_0"] / found["x_s"] == pytest.approx(alpha_bar, rel=1e-4)
