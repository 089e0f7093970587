"""Sharding divides the memory alone: processes that share the weights train as processes that each have them all."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from tests import tiny
from tests.processes import launch
from tests.settings import make_trainer
from tests.training.test_engine import OBJECTIVE, share
from ufogen.errors import UserError
from ufogen.planning import plan
from ufogen.training.loop import fit, make_accelerator
from ufogen.training.lora import save_generator
from ufogen.training.parallel import check
from ufogen.training.trainer import AdversarialTrainer

UPDATES, EVERY, STOP = 20, 2, 3
SAVING = {"gradient_checkpointing": True, "ema_device": "cpu", "accumulation": 2, "updates": 4}
ADAPTERS = {"lora": (2, 2), "gradient_clip": 0.01, "updates": 3}
SHORT = {"sharding": "full", "updates": 4}
CASES = {  # all that is trained: two processes, one start
    "none-1": {},
    "full-1": {"sharding": "full"},
    "full-2": {"sharding": "full", "accumulation": 2},
    "none-saving": SAVING,
    "zero2-saving": {"sharding": "zero2"} | SAVING,
    "none-adapters": ADAPTERS,
    "full-adapters": {"sharding": "full"} | ADAPTERS,
    "straight": SHORT,
    "resumed": SHORT,
}
AGREE = [("full-1", "none-1"), ("full-2", "none-1"), ("zero2-saving", "none-saving"), ("full-adapters", "none-adapters")]


class Stop(Exception):
    """What ends a training between two updates."""


def train(folder: Path, updates: int = UPDATES, stop: int | None = None, **changes) -> None:
    """Train on this process's share, saving the average at each checkpoint; goes on with what `folder` has."""
    accelerator = make_accelerator("cpu", "no")
    task = tiny.task(OBJECTIVE, **{"warmup": 2, "updates": updates} | changes)
    every = EVERY if updates < UPDATES else UPDATES
    rank, processes, losses = accelerator.process_index, accelerator.num_processes, []

    def batches(step: int):
        if step == stop:
            raise Stop
        return share(step, rank, processes)

    def log(step: int, means: dict[str, float]) -> None:
        losses.append(torch.tensor([means[name] for name in sorted(means) if name != "std_last"]))

    def save(step: int) -> None:
        with task.averaged() as generator:
            if rank == 0:
                save_generator(generator.unet, folder / "saved")

    fit(
        task, batches, accelerator, updates=updates, seed=0, folder=folder / "checkpoint", run="run", checkpoint_every=every,
        log_every=1, on_log=log, on_checkpoint=save,
    )  # fmt: skip
    weights = whole_weights(task)
    if rank == 0:
        torch.save({"losses": torch.cat(losses), "weights": weights}, folder / "result.pt")
    torch.save(held(task), folder / f"held-{rank}.pt")


def whole_weights(task: AdversarialTrainer) -> torch.Tensor | None:
    """Of G, D and the averaged G, on the main process. All processes take part."""
    found = []
    for parallel in (task.g, task.d):
        with parallel.whole() as network:
            found += [] if network is None else [tiny.flat(network)]
    with task.averaged() as generator:
        found += [] if generator is None else [tiny.flat(generator)]
    return torch.cat(found) if found else None


def held(task: AdversarialTrainer) -> dict[str, int]:
    """Bytes that this process holds between updates, as `plan.state_bytes` counts them."""

    networks = (task.generator, task.discriminator)
    parameters = [p for network in networks for p in network.parameters()]
    optimizers = (task.optimizer_g, task.optimizer_d)
    return {
        "stray_gradients": sum(p.grad is not None for p in parameters),
        "weights": sum(getattr(p, "_local_tensor", p).nbytes for p in parameters),
        "gradients": sum(p.grad.nbytes for optimizer in optimizers for p in optimizer.param_groups[0]["params"]),
        "optimizer": sum(s[n].nbytes for o in optimizers for s in o.state.values() for n in ("exp_avg", "exp_avg_sq")),
        "average": sum(shadow.nbytes for shadow in task.ema.shadow_params),
    }


def trainings(folder: Path) -> None:
    """Everything that two processes train for these tests, in one start of them. `resumed` is killed on its way."""
    for name, changes in CASES.items():
        if name == "resumed":
            with contextlib.suppress(Stop):
                train(folder / name, stop=STOP, **changes)
        train(folder / name, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharding")
    for name in CASES:
        (folder / name).mkdir()
    launch(trainings, folder)
    return folder


def result(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / name / "result.pt")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "reference"), AGREE)
def test_losses_and_weights_are_those_of_whole_networks(folder, name, reference):
    found, expected = result(folder, name), result(folder, reference)
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=5e-5)
    start = torch.cat([tiny.flat(network) for network in (tiny.task().generator, tiny.task().discriminator)])
    if "adapters" not in name:  # an update of Adam moves a weight by some 1e-3
        assert (expected["weights"][: len(start)] - start).abs().max() > 1e-3


@pytest.mark.slow
def test_resumed_after_a_kill_ends_bit_equal(folder):
    straight, resumed = result(folder, "straight"), result(folder, "resumed")
    assert len(resumed["losses"]) < len(straight["losses"])  # it went on and did not start anew
    assert torch.equal(resumed["losses"], straight["losses"][-len(resumed["losses"]) :])
    assert torch.equal(resumed["weights"], straight["weights"])
    files = {path.name for path in (folder / "resumed" / "checkpoint").glob("step-*/*-0000?.pt")}
    assert files == {f"{network}-0000{rank}.pt" for network in ("generator", "discriminator") for rank in (0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full-1", "full-adapters"])
def test_saved_generator_is_whole_and_stock(folder, name):
    reference = folder / name.replace("full", "none") / "saved"
    files = {path.relative_to(reference) for path in reference.rglob("*.*")}
    assert {path.relative_to(folder / name / "saved") for path in (folder / name / "saved").rglob("*.*")} == files
    unet = UNet2DConditionModel.from_pretrained(folder / name / "saved" / "unet")
    expected = load_file(reference / "unet" / "diffusion_pytorch_model.safetensors")
    torch.testing.assert_close(dict(unet.state_dict()), expected, rtol=0, atol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), [("full-1", "full"), ("zero2-saving", "zero2")])
def test_each_process_holds_its_share(folder, name, mode):
    held = [torch.load(folder / name / f"held-{rank}.pt") for rank in (0, 1)]
    assert not any(h.pop("stray_gradients") for h in held)  # D's own from G's step would stay
    counts = [tiny.flat(network).numel() for network in (tiny.task().generator, tiny.task().discriminator)]
    prompt_embeds = plan.state_bytes(*counts, gpus=2, sharding=mode)
    for part in held[0]:
        sizes = [h[part] for h in held]
        assert sum(sizes) == 2 * prompt_embeds[part]
        assert max(sizes) < 1.1 * prompt_embeds[part]  # rows that cannot be halved go to the first process


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({}, 1, "trainer.sharding is zero2; allowed with one process: none"),
        ({"compile": True}, 2, "trainer.compile is True; allowed with trainer.sharding zero2: false"),
        ({"optimizer": "adam8bit"}, 2, "trainer.optimizer is adam8bit; allowed with trainer.sharding zero2: adam"),
        ({"precision": "fp16"}, 2, "trainer.precision is fp16; allowed with trainer.sharding zero2: no, bf16"),
    ],
)
def test_settings_that_do_not_go_with_sharding_are_user_errors(changes, processes, message):
    with pytest.raises(UserError, match=message):
        check(make_trainer(sharding="zero2", **changes), SimpleNamespace(num_processes=processes))
    check(make_trainer(sharding="none", **changes), SimpleNamespace(num_processes=processes))


def test_one_process_is_refused_before_anything_is_divided():
    with pytest.raises(UserError, match="allowed with one process: none"):
        tiny.task(sharding="full").prepare(make_accelerator("cpu", "no"))
