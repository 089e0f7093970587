"""The toy: metrics against closed forms, batched networks against single ones, and a tiny run of the stage."""

import csv
import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from scipy.stats import entropy
from torch import nn
from torch.nn.functional import softplus

from tests.settings import make_toy
from ufogen.base.models import SCHEDULE
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.figures import toy as figures
from ufogen.pipelines.ablations import toy_arms as toy_arms
from ufogen.pipelines.toy import measure as stage
from ufogen.randomness import torch_generator
from ufogen.toy import mixture, networks
from ufogen.toy.records import samples_of
from ufogen.toy.settings import Method, Toy
from ufogen.toy.train import Arm, make_schedule

ROOT = Path(__file__).parents[2]
TINY = {"updates": 6, "batch_size": 8, "width": 8, "seeds": 2, "samples": 60, "transport_samples": 25, "r1_interval": 2}
DDGAN, SIDDM, UFOGEN = make_toy().methods
METHODS = pytest.mark.parametrize("method", [DDGAN, SIDDM, UFOGEN], ids=lambda method: method.name)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at_modes(index: list[int], n: int) -> torch.Tensor:
    """n points of the modes with these indices, in turn."""
    return mixture.from_draws(torch.tensor(index)[torch.arange(n) % len(index)], torch.randn(n, 2, generator=rng()))


# the mixture and its metrics


def test_data_have_unit_variance_and_every_metric_of_a_perfect_sample():
    data = mixture.draw(200_000, rng())
    torch.testing.assert_close(torch.cov(data.T), torch.eye(2), atol=0.01, rtol=0)
    found = mixture.measure(data, mixture.balanced(500, rng(1)))
    assert (found["modes"], found["box_fraction"]) == (25, 1)
    assert found["mode_kl"] < 24 / len(data)  # twice what chance leaves, (25 - 1) / 2n
    assert found["frechet"] < 1e-4


def test_variance_in_a_mode_is_that_of_a_clamped_normal_variable():
    values = (torch.randn(4_000_000, generator=rng()).double() / 3).clamp(-1, 1)
    assert mixture.VARIANCE_IN_MODE == pytest.approx(values.var().item(), rel=2e-3)
    assert mixture.VARIANCE_IN_MODE < 1 / 9


def test_balanced_points_fill_the_modes_equally():
    nearest, inside = mixture.nearest_mode(mixture.balanced(75, rng()))
    assert torch.bincount(nearest).tolist() == [3] * 25
    assert inside.all()


def test_uniform_noise_is_in_a_box_as_often_as_the_boxes_are_large():
    cell = mixture.SPACING / mixture.SCALE
    noise = (torch.rand(100_000, 2, generator=rng()) - 0.5) * 5 * cell
    found = mixture.measure(noise, mixture.balanced(25, rng()))
    assert found["box_fraction"] == pytest.approx(4 / 25, abs=0.005)
    assert found["modes"] == 25


@pytest.mark.parametrize("kept", [1, 5, 24])
def test_dropped_modes_are_counted(kept):
    found = mixture.measure(at_modes(list(range(kept)), 120 * kept), mixture.balanced(25, rng()))
    assert found["modes"] == kept
    assert found["mode_kl"] == pytest.approx(math.log(25 / kept), abs=1e-9)
    assert found["box_fraction"] == 1


def test_a_mode_with_less_than_a_hundredth_of_its_share_is_not_counted():
    n = 25_000  # a fair share is 1,000, a hundredth of it 10
    for stray, modes in ((9, 1), (10, 2)):
        samples = torch.cat([at_modes([0], n - stray), at_modes([7], stray)])
        assert mixture.measure(samples, mixture.balanced(25, rng()))["modes"] == modes


def test_samples_outside_every_box_belong_to_a_mode_but_do_not_find_it():
    beside = mixture.CENTRES.float() + torch.tensor([1.5 * mixture.HALF_BOX, 0])
    found = mixture.measure(beside, mixture.balanced(25, rng()))
    assert (found["modes"], found["box_fraction"]) == (0, 0)
    assert found["mode_kl"] == pytest.approx(0, abs=1e-9)


def test_kl_is_that_of_scipy():
    counts = torch.tensor([5, 0, 3, 12])
    assert mixture.kl_from_uniform(counts) == pytest.approx(entropy(counts.numpy(), np.ones(4)))


def test_frechet_is_the_general_formula_at_the_mixtures_moments():
    x = torch.randn(500, 2, generator=rng(), dtype=torch.float64) @ torch.tensor([[1.0, 0.4], [0.0, 0.3]]).double() + 0.2
    mean, covariance = x.mean(dim=0).numpy(), np.cov(x.numpy().T, bias=True)
    expected = mean @ mean + np.trace(covariance + np.eye(2) - 2 * sqrtm(covariance).real)
    assert mixture.frechet(x) == pytest.approx(expected, rel=1e-6)


def test_frechet_cannot_see_a_blur_nor_sixteen_missing_modes():
    blur = torch.randn(100_000, 2, generator=rng())
    assert mixture.frechet(blur) < 1e-3
    assert mixture.measure(blur, mixture.balanced(25, rng()))["box_fraction"] < 0.2
    # coordinates -2, 0, 2 with shares 1/4, 1/2, 1/4 have the variance of -2, -1, 0, 1, 2
    axis = [0, 2, 2, 4]
    missing = at_modes([5 * i + j for i in axis for j in axis], 100_000)
    assert mixture.frechet(missing) < 1e-3
    assert mixture.measure(missing, mixture.balanced(25, rng()))["modes"] == 9


def test_wasserstein_is_the_best_of_all_permutations():
    a, b = torch.randn(5, 2, generator=rng(1)), torch.randn(5, 2, generator=rng(2))
    costs = [(a - b[list(order)]).square().sum(dim=1).mean() for order in itertools.permutations(range(5))]
    assert mixture.wasserstein_2(a, b) == pytest.approx(min(costs).sqrt().item(), rel=1e-6)


def test_wasserstein_of_a_shift_is_its_length_and_of_a_permutation_zero():
    a = mixture.draw(100, rng())
    assert mixture.wasserstein_2(a, a.flip(0) + torch.tensor([0.3, 0.4])) == pytest.approx(0.5, rel=1e-5)
    assert mixture.wasserstein_2(a, a.flip(0)) == 0


# the networks


def test_a_batched_mlp_is_one_mlp_a_seed():
    batched = networks.BatchedMLP([3, 7], [4, 8, 8, 2], "test")
    x = torch.randn(2, 5, 4, generator=rng())
    for i in range(2):
        layers = []
        for weight, bias in zip(batched.weights, batched.biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            linear.weight.data, linear.bias.data = weight.data[i].T, bias.data[i, 0]
            layers += [linear, nn.SiLU()]
        torch.testing.assert_close(batched(x)[i], nn.Sequential(*layers[:-1])(x[i]))
    assert not torch.equal(batched.weights[0][0], batched.weights[0][1])


def test_initial_weights_depend_on_the_seed_alone_and_have_the_range_of_a_linear_layer():
    both, one = (networks.BatchedMLP(seeds, [16, 40, 2], "test") for seeds in ([3, 7], [7]))
    for a, b in zip(both.parameters(), one.parameters(), strict=True):
        assert torch.equal(a[1], b[0])
    assert 0.24 < both.weights[0].abs().max() <= 0.25
    assert 0.14 < both.weights[1].abs().max() <= 40**-0.5


def test_only_a_joint_discriminator_sees_x_t():
    x_s, x_t, s = torch.randn(4, 2, generator=rng()), torch.randn(4, 2, generator=rng(1)), torch.zeros(4).long()
    for joint in (False, True):
        discriminator = networks.Discriminator([0], 8, joint, frequencies=1)
        assert torch.equal(discriminator(x_s, s, x_t), discriminator(x_s, s, -x_t)) is not joint
        assert not torch.equal(discriminator(x_s, s, x_t), discriminator(x_s, s + 500, x_t))


def test_items_of_the_seeds_are_one_batch_that_can_be_put_together_and_divided():
    x = torch.arange(30).view(3, 5, 2)  # of three seeds
    items = networks.as_items(x)
    assert items[:3].tolist() == x[:, 0].tolist()
    assert torch.equal(networks.by_seed(items, 3), x)
    assert torch.equal(networks.by_seed(torch.cat([items, items + 30]), 3), torch.cat([x, x + 30], dim=1))
    assert torch.equal(networks.by_seed(torch.arange(6), 3), torch.tensor([[0, 3], [1, 4], [2, 5]]))


def test_networks_of_a_seed_answer_its_own_items_alone():
    x, t = torch.randn(8, 2, generator=rng()), torch.zeros(8).long()
    both = networks.Discriminator([3, 7], 8, False, frequencies=1)
    one = networks.Discriminator([7], 8, False, frequencies=1)
    torch.testing.assert_close(both(x, t, x)[1::2], one(x[1::2], t[1::2], x[1::2]))


def test_fourier_features_are_octaves_beside_the_coordinates():
    found = networks.fourier(torch.tensor([[0.5, 0.25]]), frequencies=2)
    half = math.sqrt(0.5)
    expected = [0.5, 0.25, 1, half, 0, 1, 0, half, -1, 0]
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)
    assert torch.equal(networks.fourier(found, 0), found)


def test_timesteps_have_features_of_their_own():
    features = networks.time_features(torch.arange(-1, 1000))
    assert torch.cdist(features, features).add(torch.eye(1001)).min() > 1e-3


# training and sampling


def arm(method: Method, steps: int = 4, seeds: tuple[int, ...] = (0, 1), **changes) -> Arm:
    trained = Arm(method, steps, make_toy(**TINY | changes), list(seeds))
    trained.train()
    return trained


@METHODS
def test_a_seed_trains_the_same_alone_and_with_others(method):
    both, alone = arm(method, updates=20), arm(method, seeds=(1,), updates=20)
    for part in ("generator", "discriminator", "ema"):
        for a, b in zip(getattr(both, part).parameters(), getattr(alone, part).parameters(), strict=True):
            torch.testing.assert_close(a[1:], b, atol=2e-5, rtol=1e-4)
            assert not torch.allclose(a[0], b[0], atol=1e-3)
    torch.testing.assert_close(both.sample(2, 10)[1:], alone.sample(2, 10), atol=1e-4, rtol=1e-3)


def test_gradients_of_a_seed_do_not_shrink_with_their_number():
    both, alone = arm(UFOGEN, updates=1), arm(UFOGEN, seeds=(1,), updates=1)
    for a, b in zip(both.generator.parameters(), alone.generator.parameters(), strict=True):
        torch.testing.assert_close(a.grad[1:], b.grad, atol=1e-6, rtol=1e-3)


@METHODS
def test_training_and_sampling_are_deterministic(method):
    a, b = arm(method), arm(method)
    assert all(torch.equal(p, q) for p, q in zip(a.generator.parameters(), b.generator.parameters(), strict=True))
    assert torch.equal(a.sample(3, 10), b.sample(3, 10))


def test_the_three_methods_learn_different_generators():
    ddgan, siddm, ufogen = (next(arm(method).generator.parameters()) for method in (DDGAN, SIDDM, UFOGEN))
    assert not torch.equal(ddgan, siddm) and not torch.equal(siddm, ufogen) and not torch.equal(ddgan, ufogen)


@METHODS
def test_an_update_is_that_of_the_equations(method):
    """Written down for one seed without the objective: an update with R1 and one without."""
    steps, c, seed = 4, make_toy(**TINY), 1
    trained = arm(method, steps, seeds=(0, seed), updates=2, r1_interval=2)
    start = Arm(method, steps, c, [seed])
    g, d, schedule = start.generator, start.discriminator, start.schedule
    betas, draw = (c.beta1, c.beta2), torch_generator("cpu", seed, "laboratory training")
    of_g = torch.optim.Adam(g.parameters(), c.generator_learning_rate, betas)
    of_d = torch.optim.Adam(d.parameters(), c.discriminator_learning_rate, betas)
    for step in range(2):
        for optimizer in (of_g, of_d):
            optimizer.param_groups[0]["lr"] = c.generator_learning_rate * (1, 0.5)[step]  # a half cosine over two updates
        normal, n = torch.randn(4, c.batch_size, 2, generator=draw), c.batch_size
        index, z = torch.randint(25 * steps, (n,), generator=draw), torch.rand(n, 2, generator=draw)
        x_0, t = mixture.from_draws(index % 25, normal[0]), 250 * (index // 25) + 249
        s = t - 250
        x_s = schedule.q(x_0, s).sample(normal[1])
        chained = method.coupling == "chained"
        x_t = (schedule.q_step(x_s, s, t) if chained else schedule.q(x_0, t)).sample(normal[2])
        x_0_fake = g(x_t, t, z)
        forward = method.parameterization == "forward"
        x_s_fake = (schedule.q(x_0_fake, s) if forward else schedule.posterior(x_0_fake, x_t, t, s)).sample(normal[3])
        loss = softplus(-d(x_s, s, x_t)).mean() + softplus(d(x_s_fake.detach(), s, x_t)).mean()
        if step == 0:
            leaf = x_s.clone().requires_grad_()
            (slope,) = torch.autograd.grad(d(leaf, s, x_t).sum(), leaf, create_graph=True)
            loss = loss + 2 * c.r1_weight * slope.square().sum(dim=1).mean() / 2
        of_d.zero_grad()
        loss.backward()
        of_d.step()
        loss = softplus(-d(x_s_fake, s, x_t)).mean()
        if method.reconstruction == "x_0":
            loss = loss + (schedule.snr(t) * (x_0 - x_0_fake).square().mean(dim=1)).mean()
        elif method.reconstruction == "x_s":
            beta = schedule.step_variance(t, s)
            loss = loss + ((1 - beta) / (2 * beta) * (x_s - x_s_fake).square().mean(dim=1)).mean()
        of_g.zero_grad()
        loss.backward()
        of_g.step()
    for part in ("generator", "discriminator"):
        for a, b in zip(getattr(trained, part).parameters(), getattr(start, part).parameters(), strict=True):
            torch.testing.assert_close(a[1:], b, atol=2e-5, rtol=1e-4)


def test_cosine_schedule_has_the_values_of_the_published_toy():
    schedule = make_schedule("cosine")
    found = schedule.alpha_bar(torch.tensor([249, 499, 749]))
    torch.testing.assert_close(found, torch.tensor([0.846881, 0.493767, 0.14425]).double(), atol=1e-5, rtol=0)
    assert schedule.alpha_bar(torch.tensor([999])) == 1e-6


def test_stable_diffusion_schedule_is_the_bases():
    from diffusers import DDIMScheduler

    t = torch.arange(1000)
    expected = Schedule.from_scheduler(DDIMScheduler(**SCHEDULE)).alpha_bar(t)
    torch.testing.assert_close(make_schedule("stable_diffusion").alpha_bar(t), expected)


class Oracle:
    """A generator that answers with one point and remembers what it was asked."""

    def __init__(self):
        self.asked: list[tuple[int, torch.Tensor]] = []

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        self.asked.append((t.unique().item(), x_t))
        return torch.full_like(x_t, 0.7)


@METHODS
@pytest.mark.parametrize(
    ("trained", "steps", "timesteps"), [(1, 1, [999]), (4, 1, [999]), (4, 2, [999, 499]), (8, 3, [999, 749, 374])]
)
def test_sampling_asks_at_trained_timesteps_and_ends_at_the_generators_answer(method, trained, steps, timesteps):
    sampler = Arm(method, trained, make_toy(**TINY), [0, 1])
    sampler.ema = Oracle()
    samples = sampler.sample(steps, 400)
    assert samples.shape == (2, 400, 2)
    torch.testing.assert_close(samples, torch.full_like(samples, 0.7))
    assert [t for t, _ in sampler.ema.asked] == timesteps
    assert set(timesteps) <= set(sampler.grid.tolist())


def test_posterior_keeps_a_share_of_x_t_and_forward_none():
    x_t = torch.randn(4000, 2, generator=rng())
    for method, keeps in ((SIDDM, True), (UFOGEN, False)):
        sampler = Arm(method, 8, make_toy(**TINY, schedule="stable_diffusion"), [0, 1])
        sampler.ema = Oracle()
        sampler.sample(8, 4000)
        (_, first), (_, second) = sampler.ema.asked[:2]
        x_t, x_s = first[::2].flatten(), second[::2].flatten()
        correlation = torch.corrcoef(torch.stack([x_t, x_s]))[0, 1].item()
        assert (correlation > 0.4) if keeps else (abs(correlation) < 0.05)


@pytest.mark.slow
def test_some_hundred_updates_bring_samples_to_the_modes():
    before, after = (arm(UFOGEN, 2, updates=n, batch_size=128, width=32).sample(2, 4000) for n in (1, 400))
    reference = mixture.balanced(400, rng())
    for seed in range(2):
        early, late = (mixture.measure(samples[seed], reference) for samples in (before, after))
        assert late["wasserstein_2"] < 0.7 * early["wasserstein_2"]
        assert late["modes"] >= 15 > early["modes"]


# settings, stage and figures


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"trained_steps": [4, 3]}, r"toy.trained_steps\[1\] is 3; allowed: divisors of 1000"),
        ({"methods": [asdict(UFOGEN), asdict(UFOGEN)]}, r"toy.methods\[1\].name is 'ufogen'; allowed: a name that is not"),
        (
            {"methods": [asdict(UFOGEN) | {"discriminator_input": "joint"}]},
            "coupling is 'independent'; allowed: chained, .*joint",
        ),
    ],
)
def test_an_arm_that_cannot_be_is_an_error_before_any_work(tree, message):
    with pytest.raises(UserError, match=message):
        make_toy(**tree)


def test_a_method_is_a_section_of_yaml():
    mine = asdict(UFOGEN) | {"name": "mine", "discriminator_input": "joint", "coupling": "chained", "latent": 0}
    settings = make_toy(methods=[mine], trained_steps=[2])
    expected = replace(UFOGEN, name="mine", discriminator_input="joint", coupling="chained", latent=0)
    assert settings.methods == [expected]
    with pytest.raises(UserError, match=r"unknown parameter toy.methods\[0\].parametrisation"):
        make_toy(methods=[mine | {"parametrisation": "forward"}])


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Toy:
    """A tiny run of the stage in an empty folder."""
    monkeypatch.chdir(tmp_path)
    settings = make_toy(**TINY, trained_steps=[1, 2])
    stage.measure_all(settings)
    return settings


def test_stage_writes_a_row_a_seed_and_their_mean(finished):
    with open("paper/results/toy.csv") as file:
        rows = list(csv.DictReader(file))
    arms = {(r["method"], int(r["trained_steps"]), int(r["steps"])) for r in rows}
    assert arms == {("data", 0, 0)} | {(m, t, n) for m in ("ddgan", "siddm", "ufogen") for t, n in ((1, 1), (2, 1), (2, 2))}
    for name in arms:
        own = [r for r in rows if (r["method"], int(r["trained_steps"]), int(r["steps"])) == name]
        assert [r["seed"] for r in own] == ["0", "1", "mean"]
        for metric in stage.METRICS:
            first, second, mean = (float(r[metric]) for r in own)
            assert mean == pytest.approx((first + second) / 2, rel=1e-4)
    card = json.loads(open("paper/results/toy.json").read())
    assert card["settings"]["trained_steps"] == [1, 2]
    assert set(card["seconds"]) == {f"{m}-{t}" for m in ("ddgan", "siddm", "ufogen") for t in (1, 2)}
    assert set(card["definitions"]) == set(stage.METRICS)


def test_finished_arms_are_skipped_and_others_are_made(finished, monkeypatch, tmp_path):
    first = (tmp_path / "paper/results/toy.csv").read_bytes()
    trained = []
    original = Arm.train
    monkeypatch.setattr(Arm, "train", lambda self: (trained.append((self.method.name, self.steps)), original(self)))
    stage.measure_all(finished)
    assert trained == []
    (tmp_path / "artifacts/toy/siddm-2.json").write_text('{"fingerprint"')
    (tmp_path / "artifacts/toy/ufogen-1.json").unlink()
    stage.measure_all(finished)
    assert trained == [("siddm", 2), ("ufogen", 1)]
    assert (tmp_path / "paper/results/toy.csv").read_bytes() == first
    finished.reconstruction_weight = 0.5
    finished.methods = [UFOGEN]
    stage.measure_all(finished)
    assert trained[2:] == [("ufogen", 1), ("ufogen", 2)]


def test_another_number_of_arms_leaves_an_arm_as_it_is(finished):
    key = stage.keys(finished)[0]
    before = stage.fingerprint(key, finished)
    finished.trained_steps = [1, 2, 4]
    assert stage.fingerprint(key, finished) == before
    finished.updates += 1
    assert stage.fingerprint(key, finished) != before


def test_figures_are_drawn_and_again_the_same_bytes(finished, tmp_path):
    results = pd.read_csv("paper/results/toy.csv")
    records = samples_of(finished)
    assert records["ufogen"][2][1].shape == (60, 2)

    def draw() -> dict[str, bytes]:
        figures.panels_of_samples(records, results, tmp_path / "panels.png")
        figures.metrics_against_trained_steps(results, tmp_path / "trained.png")
        figures.metrics_against_sampling_steps(results, tmp_path / "steps.png", trained=2)
        return {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}

    first = draw()
    assert len(first) == 3
    for name in first:
        assert np.asarray(Image.open(tmp_path / name).convert("RGB")).std() > 5, name
    assert draw() == first


# the claims' arms


def test_the_claims_arms_differ_from_ufogen_in_what_their_name_says():
    arms = toy_arms.arms(make_toy())
    ufogen, trained = arms["ufogen"]
    changed = {
        name: {key for key, value in asdict(method).items() if value != asdict(ufogen)[key]} - {"name"}
        for name, (method, steps) in arms.items()
    }
    assert changed["posterior"] == {"parameterization"}
    assert changed["x_s_chained"] == {"reconstruction", "coupling"}
    assert changed["siddm"] == changed["posterior"] | changed["x_s_chained"]
    assert all(1000 // steps == int(name[2:]) for name, (_, steps) in arms.items() if name.startswith("k_"))
    assert not changed["lambda_10"] and toy_arms.WEIGHTS == {"lambda_10": 10}
    assert not changed["k_125"] and not changed["k_1000"] and trained == 4


def test_finished_arms_of_the_claims_are_kept_and_seeds_are_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = make_toy(**TINY)
    first = toy_arms.measured("k_125", [100, 101], settings)
    assert {(row["steps"], row["seed"]) for row in first} == {(1, 100), (1, 101), (8, 100), (8, 101)}
    monkeypatch.setattr(toy_arms, "Arm", None)  # nothing is trained again
    assert toy_arms.measured("k_125", [100, 101], settings) == first
    with pytest.raises(TypeError):
        toy_arms.measured("k_125", [100, 102], settings)
