"""The plan against runs: what autograd really keeps, what the optimizer really holds, FLOPs in closed form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny
from tests.settings import PLAIN, configured, make_base, make_objective, make_trainer
from ufogen import config
from ufogen.app import cli
from ufogen.diffusion.losses import r1_penalty
from ufogen.diffusion.networks import frozen, make_networks
from ufogen.errors import UserError
from ufogen.planning import plan
from ufogen.planning.footprint import Kept, Networks, activations, autocast, flops
from ufogen.randomness import Draws
from ufogen.training.loop import make_accelerator

ROOT = Path(__file__).parents[2]
BATCH = 4
FAKE = FakeTensorMode()  # fake tensors of two modes do not mix


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Fake, of the tiny U-Net's architecture."""
    with FAKE:
        return Networks(dict(tiny.unet().config), tiny.TOKENS, make_objective())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    pipeline = tiny.pipeline()
    pipeline.unet.save_config(folder / "unet")
    pipeline.vae.save_config(folder / "vae")
    return folder


def settings(folder: Path, **trainer) -> config.Config:
    return configured(processes=2, base=make_base("diffusers", folder), objective=PLAIN, trainer=tiny.trainer(**trainer))


# activations


def kept_by_a_run(run: Callable[[], Tensor], *networks: nn.Module) -> int:
    """Bytes of the memory that autograd saves beside the weights, told apart by its address."""
    weights = {p.untyped_storage().data_ptr() for network in networks for p in network.parameters()}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for address, tensor in found.items() if address not in weights)


@pytest.mark.parametrize("half", [False, True])
def test_activations_are_those_of_a_run_on_the_cpu(networks, half):
    with FAKE:
        expected = activations(networks, half)
    generator, discriminator = make_networks(tiny.unet(), tiny.schedule(), "epsilon", make_objective())
    x, states = tiny.latents(BATCH), tiny.prompt_embeds(BATCH)
    t = torch.full((BATCH,), 500)

    def generate() -> Tensor:
        return generator(x, t, states)

    def discriminate() -> Tensor:
        return discriminator(torch.cat([x, x]), torch.cat([t, t]), torch.cat([states, states]))

    def judge() -> Tensor:
        with frozen(discriminator):
            return discriminator(x.clone().requires_grad_(), t, states)

    def penalty() -> Tensor:
        x_s = x.clone().requires_grad_()
        return r1_penalty(discriminator(x_s, t, states), x_s)

    def measured(run: Callable[[], Tensor]) -> int:
        with autocast(half):
            return kept_by_a_run(run, generator, discriminator)

    runs = {"generator": generate, "discriminator": discriminate, "discriminator_for_generator": judge, "penalty": penalty}
    found = {name: measured(run) for name, run in runs.items()}
    assert {name: kept.at(BATCH) for name, kept in expected["all"].items()} == pytest.approx(found, rel=0.1)

    generator.unet.enable_gradient_checkpointing()
    discriminator.unet.enable_gradient_checkpointing()
    for name in ("generator", "discriminator"):
        kept = expected["checkpointed"][name]
        assert kept.fixed + kept.item * BATCH == pytest.approx(measured(runs[name]), rel=0.1)
        assert 0 < kept.piece * BATCH < found[name]
        assert kept.at(BATCH) < found[name]


# what stays from update to update


def test_states_are_exactly_those_of_a_training():
    task = tiny.task()
    task.prepare(make_accelerator("cpu", "no"))
    task.update(tiny.batch(0), 0, Draws(torch.Generator().manual_seed(0)))
    networks = (task.generator, task.discriminator)
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    moments = [
        state[name]
        for optimizer in (task.optimizer_g, task.optimizer_d)
        for state in optimizer.state.values()
        for name in ("exp_avg", "exp_avg_sq")
    ]
    assert plan.state_bytes(*counts, gpus=1) == {
        "weights": sum(p.nbytes for network in networks for p in network.parameters()),
        "gradients": sum(p.grad.nbytes for network in networks for p in network.parameters()),
        "optimizer": sum(moment.nbytes for moment in moments),
        "average": sum(p.nbytes for p in task.ema.shadow_params),
    }
    assert plan.state_bytes(*counts, gpus=2)["gradient_buckets"] == 4 * sum(counts)


def test_sharding_divides_the_states_over_the_gpus():
    """What the processes of a sharded training hold is counted in training/test_parallel.py."""
    whole = plan.state_bytes(100, 60, gpus=1)
    parts = {name: size / 8 for name, size in whole.items()}
    assert plan.state_bytes(100, 60, 8, "full", r1=False) == parts | {"gathered_weights": 0}
    assert plan.state_bytes(100, 60, 8, "full", r1=True) == parts | {"gathered_weights": 4 * 60}
    assert plan.state_bytes(100, 60, 8, "zero2") == parts | {"gathered_weights": 4 * 160}


def test_plan_follows_the_sharding(folder):
    whole, c = plan.make_plan(settings(folder)), settings(folder, sharding="full")
    divided = plan.make_plan(c)
    assert divided["state_bytes"]["optimizer"] == whole["state_bytes"]["optimizer"] / 2
    assert divided["all"]["bytes"] < whole["all"]["bytes"]
    assert "gathered_weights" in plan.described(divided)
    with pytest.raises(UserError, match="trainer.sharding is full; allowed with one GPU: none"):
        plan.make_plan(c, gpus=1)


# FLOPs


class Small:
    """A convolution (4 to 8 channels on 8 x 8) and a linear layer (512 to 5) in place of both U-Nets."""

    CONVOLUTION, LINEAR = 2 * 8 * 4 * 9 * 64, 2 * 512 * 5

    def __init__(self) -> None:
        self.network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 5))
        self.generator = self
        self.set_attn_processor = lambda processor: None

    def generate(self, batch: int) -> Tensor:
        return self.network(torch.randn(batch, 4, 8, 8))

    def discriminate(self, batch: int) -> Tensor:
        return self.generate(2 * batch)

    def judge(self, batch: int) -> Tensor:
        with frozen(self.network):
            return self.network(torch.randn(batch, 4, 8, 8, requires_grad=True))

    def decide_for_penalty(self, batch: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(batch, 4, 8, 8, requires_grad=True)
        return self.network(x), x


def test_flops_of_a_convolution_and_a_linear_layer_in_closed_form():
    with FAKE:
        found = flops(Small())
    c, linear = Small.CONVOLUTION, Small.LINEAR
    assert found == {
        "generator_forward": c + linear,
        "generator_backward": c + 2 * linear,  # data takes no gradient
        "discriminator_forward": 2 * (c + linear),
        "discriminator_backward": 2 * (c + 2 * linear),
        "discriminator_for_generator": 2 * (c + linear),  # forward, and back to the input alone
        "penalty": 4 * c + 3 * linear,  # forward, to the input, and back from there to weights and middle
    }


def test_flops_are_those_of_a_run_on_the_cpu(networks):
    with FAKE:
        found = flops(networks)
    generator, discriminator = make_networks(tiny.unet(), tiny.schedule(), "epsilon", make_objective())
    generator.unet.set_attn_processor(AttnProcessor())
    x, t, states = tiny.latents(1), torch.full((1,), 500), tiny.prompt_embeds(1)
    with FlopCounterMode(display=False) as of_g:
        generator(x, t, states).sum().backward()
    with FlopCounterMode(display=False) as of_d:
        discriminator(torch.cat([x, x]), torch.cat([t, t]), torch.cat([states, states])).sum().backward()
    assert found["generator_forward"] + found["generator_backward"] == of_g.get_total_flops()
    assert found["discriminator_forward"] + found["discriminator_backward"] == of_d.get_total_flops()


def test_flops_of_an_update_follow_penalties_and_accumulation():
    found = {"generator_forward": 1, "generator_backward": 2, "discriminator_forward": 2, "discriminator_backward": 4}
    found |= {"discriminator_for_generator": 2, "penalty": 6}
    objective, trainer = make_objective(r1_interval=16), make_trainer()
    assert plan.flops_an_item(found, objective, trainer) == 1 + (6 + 6 / 16) + (2 + 2)
    objective.r1_weight = 0.0
    assert plan.flops_an_item(found, objective, trainer) == 1 + 6 + (2 + 2)
    trainer.accumulation = 4  # G passes for D and again for itself
    assert plan.flops_an_item(found, objective, trainer) == 2 + 6 + (2 + 2)


# the whole plan


def test_hours_and_memory_add_up(folder):
    c = settings(folder, batch_size=4, updates=100)
    r = plan.make_plan(c, gpu="a100-40gb", mfu=0.5)
    assert (r["batch"], r["batch_a_gpu"], r["gpus"]) == (8, 4, 2)
    assert r["parameters"]["generator"] == tiny.flat(tiny.unet()).numel()
    seconds = 100 * 8 * r["flops_an_item"]["update"] / (2 * 0.5 * 19.5e12)
    assert r["hours"] == pytest.approx(seconds / 3600)
    kept = r["all"]["activation_bytes"]
    of_d = max(kept["discriminator"] + kept["penalty"], kept["discriminator_for_generator"])
    assert r["all"]["bytes"] == pytest.approx(sum(r["state_bytes"].values()) + kept["generator"] + of_d)
    assert r["checkpointed"]["bytes"] < r["all"]["bytes"]


def test_auto_is_bfloat16_on_every_card(folder, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # whatever this processor has
    auto, single = (plan.make_plan(settings(folder, precision=p)) for p in ("auto", "no"))
    assert auto["precision"] == "bf16" and auto["hours"] < single["hours"]


def test_largest_batch_is_the_last_that_fits():
    kept = {"generator": Kept(10, 2), "discriminator": Kept(10, 4, 1), "discriminator_for_generator": Kept(10, 3)}
    kept["penalty"] = Kept(10, 5)
    for r1, item in ((True, 2 + 5 + 5), (False, 2 + 5)):
        fixed = 100 + (30 if r1 else 20)
        for batch, fits in ((7, True), (8, False)):
            found = plan.memory(kept, 100, batch, fixed + 7 * item + 1, r1)
            assert (found["fits"], found["largest_batch_a_gpu"], found["bytes"]) == (fits, 7, fixed + batch * item)
    assert plan.memory(kept, 100, 1, 50, True)["largest_batch_a_gpu"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gpu": "abacus"}, "GPU 'abacus' is unknown; allowed: a100-40gb, "),
        ({"gpus": 3}, "3 GPUs cannot share a batch of 8 evenly"),
        ({"mfu": 1.5}, "share of the peak is 1.5; allowed: above 0, at most 1"),
    ],
)
def test_impossible_plans_are_user_errors(folder, arguments, message):
    with pytest.raises(UserError, match=message):
        plan.make_plan(settings(folder), **arguments)


def test_base_without_an_architecture_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="has no unet/config.json; allowed: a diffusers folder, sd15, sd21"):
        plan.make_plan(settings(tmp_path))


def test_command_prints_text_and_json(folder, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = ["plan", "base=diffusers", f"base.path={folder}", "trainer.batch_size=4", "--gpus", "1"]
    assert cli.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gpus"] == 1 and report["gpu"] == "h100-80gb" and report["all"]["fits"] is True
    text = plan.described(report)
    assert f"generator {report['parameters']['generator']:,}" in text
    assert cli.main(["plan", "profile=none"]) == 2
    assert capsys.readouterr().err.startswith("error: parameter profile is 'none'; allowed: clipart, cpu, gpu, sd15, smoke")


def test_command_needs_the_repository(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan"]) == 2
    message = "error: experiments/config.yaml not found: run from the root of the repository, which pip does not install\n"
    assert capsys.readouterr().err == message
