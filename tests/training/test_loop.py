"""The training loop: resuming, logging and stopping."""

import pytest
import torch
from accelerate.state import AcceleratorState

from tests import tiny
from tests.settings import make_objective
from ufogen.errors import UserError
from ufogen.training.log import IN_A_ROW
from ufogen.training.loop import fit, make_accelerator
from ufogen.training.trainer import AdversarialTrainer

RUN = {"updates": 5, "seed": 0, "run": "run", "checkpoint_every": 2, "log_every": 1}


class Stop(Exception):
    """What ends a process between two updates."""


class Counter:
    """A task that logs what it is told to and remembers the updates and random numbers it was given."""

    def __init__(self, scalar=lambda step: {"value": float(step)}):
        self.scalar, self.steps, self.numbers = scalar, [], []

    def prepare(self, accelerator) -> None:
        pass

    def update(self, batch, step, draws) -> dict[str, torch.Tensor]:
        assert batch == f"batch {step}"
        self.steps.append(step)
        self.numbers.append(draws.uniform(1).item())
        return {name: torch.tensor(value) for name, value in self.scalar(step).items()}


def batches(step: int) -> str:
    return f"batch {step}"


def train(task, folder, batches=batches, **changes) -> int:
    return fit(task, batches, make_accelerator("cpu", "no"), folder=folder, **RUN | changes)


def newest(folder) -> str:
    return max(path.name for path in folder.iterdir())


def state(task: AdversarialTrainer) -> dict[str, torch.Tensor]:
    """Everything that a resumed run must have in common with an uninterrupted one."""
    tensors = {"G": tiny.flat(task.generator), "D": tiny.flat(task.discriminator)}
    tensors["average"] = torch.cat([parameter.flatten() for parameter in task.ema.shadow_params])
    for name, optimizer in (("G", task.optimizer_g), ("D", task.optimizer_d)):
        for i, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{name} {i} {key}": value for key, value in moments.items()}
    return tensors


@pytest.mark.parametrize("engine", [{}, {"accumulation": 2, "ema_device": "cpu", "lora": (2, 2)}], ids=["default", "adapters"])
def test_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path, engine):
    changes = {"warmup": 2, "decay": "cosine", "updates": RUN["updates"]} | engine
    objective = make_objective(r1_interval=2)

    def stopping(step):
        if step == 3:
            raise Stop
        return tiny.batch(step)

    whole = tiny.task(objective, **changes)
    assert train(whole, tmp_path / "whole", tiny.batch) == 0
    stopped = tiny.task(objective, **changes)
    with pytest.raises(Stop):
        train(stopped, tmp_path / "parts", stopping)
    resumed = tiny.task(objective, seed=1, **changes)  # other weights, which the checkpoint replaces
    assert train(resumed, tmp_path / "parts", tiny.batch) == 2

    expected, found = state(whole), state(resumed)
    assert expected.keys() == found.keys()
    assert len(expected) > 100
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert not torch.equal(state(stopped)["G"], expected["G"])
    assert resumed.ema.optimization_step == whole.ema.optimization_step == 5


def test_each_update_gets_its_own_batch_and_random_numbers(tmp_path):
    task = Counter()
    train(task, tmp_path)
    assert task.steps == [0, 1, 2, 3, 4]
    assert len(set(task.numbers)) == 5


def test_random_numbers_depend_on_seed_and_description(tmp_path):
    first, same, seed, description = Counter(), Counter(), Counter(), Counter()
    train(first, tmp_path / "a")
    train(same, tmp_path / "b")
    train(seed, tmp_path / "c", seed=1)
    train(description, tmp_path / "d", description="other")
    assert first.numbers == same.numbers
    assert not set(first.numbers) & (set(seed.numbers) | set(description.numbers))


def test_finished_run_is_not_trained_again(tmp_path):
    train(Counter(), tmp_path)
    task = Counter()
    assert train(task, tmp_path) == 5
    assert task.steps == []


def test_checkpoint_of_another_run_is_a_user_error_before_the_first_update(tmp_path):
    train(Counter(), tmp_path)
    task = Counter()
    with pytest.raises(UserError, match="step-0000005 is of a run with another architecture, other settings"):
        train(task, tmp_path, run="other run")
    assert task.steps == []
    assert train(Counter(), tmp_path) == 5  # what was there still stands


def test_logged_values_are_means_since_the_last_logging(tmp_path):
    logged = []
    train(Counter(), tmp_path, log_every=2, on_log=lambda step, means: logged.append((step, means)))
    assert logged == [(2, {"value": 0.5}), (4, {"value": 2.5}), (5, {"value": 4.0})]


def test_scalar_that_is_not_always_there_is_averaged_over_its_own_updates(tmp_path):
    logged = []
    task = Counter(lambda step: {"always": 1.0} | ({"sometimes": 6.0} if step == 2 else {}))
    train(task, tmp_path, log_every=5, on_log=lambda step, means: logged.append(means))
    assert logged == [{"always": 1.0, "sometimes": 6.0}]


def test_hook_runs_at_the_start_and_after_each_checkpoint_and_again_where_a_run_goes_on(tmp_path):
    seen = []

    def hook(step: int) -> None:
        seen.append((step, max((folder.name for folder in tmp_path.glob("step-*")), default=None)))

    train(Counter(), tmp_path, on_checkpoint=hook)
    assert seen == [(0, None), (2, "step-0000002"), (4, "step-0000004"), (5, "step-0000005")]
    train(Counter(), tmp_path, on_checkpoint=hook)
    assert seen[4:] == [(5, "step-0000005")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scalar_that_is_not_finite_is_a_user_error_that_names_it(tmp_path, value):
    task = Counter(lambda step: {"fine": 1.0, "loss_d": value if step == 3 else 1.0})
    with pytest.raises(UserError, match=r"update 4: loss_d not finite"):
        train(task, tmp_path)
    assert newest(tmp_path) == "step-0000002"


def skipping(*steps: int) -> Counter:
    """Updates whose step is left out, with a loss that is not finite."""
    return Counter(lambda step: {"loss": float("nan"), "skipped": 1.0} if step in steps else {"loss": float(step)})


def test_updates_that_are_left_out_are_counted_and_are_in_no_mean(tmp_path):
    logged = []
    train(skipping(1, 2, 4), tmp_path, updates=6, log_every=3, on_log=lambda step, means: logged.append((step, means)))
    assert logged == [(3, {"loss": 0.0, "skipped": 2}), (6, {"loss": 4.0, "skipped": 1})]


@pytest.mark.parametrize(("first", "ends"), [(7, True), (8, False)])
def test_so_many_in_a_row_end_the_run_and_the_checkpoint_is_of_before(tmp_path, first, ends):
    """The last of them has no number `IN_A_ROW` where one more is fine."""
    steps, given = range(first, 7 + IN_A_ROW), {"updates": 10 + IN_A_ROW, "checkpoint_every": 1}
    if not ends:
        train(skipping(*steps), tmp_path, **given)
        assert newest(tmp_path) == "step-0000035"
        return
    said = rf"^training diverged at update {7 + IN_A_ROW}: loss, gradients not finite in {IN_A_ROW} updates in a row"
    with pytest.raises(UserError, match=said):
        train(skipping(*steps), tmp_path, **given)
    assert newest(tmp_path) == "step-0000007"


def test_diverged_networks_are_a_user_error(tmp_path):
    task = tiny.task()
    with torch.no_grad():
        task.generator.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="loss_g.*reconstruction"):
        train(task, tmp_path, tiny.batch)
    assert not list(tmp_path.glob("step-*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [("cuda", "no", "device=auto or device=cpu"), ("auto", "fp16", "bf16 or no"), ("cpu", "fp16", "bf16 or no")],
)
def test_absent_gpu_is_a_user_error_with_a_remedy(device, precision, message):
    with pytest.raises(UserError, match=message):
        make_accelerator(device, precision)


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_engine_that_takes_one_network_alone_is_a_user_error(monkeypatch, engine):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(UserError, match="does not train two networks here: use experiments/accelerate/ddp.yaml"):
        make_accelerator("cpu", "no")


@pytest.mark.parametrize(
    "settings",
    [
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
        {"ACCELERATE_MIXED_PRECISION": "bf16"},
        {"ACCELERATE_DOWNCAST_BF16": "true"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_from_outside_train_the_same_weights(tmp_path, monkeypatch, settings):
    """What a shell or `accelerate launch` sets for another program must not come in without a word."""
    weights = []
    for number, environment in enumerate(({}, settings)):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        AcceleratorState._reset_state(reset_partial_state=True)  # which otherwise remembers the first environment
        task = tiny.task()
        train(task, tmp_path / str(number), tiny.batch, updates=2)
        weights.append(torch.cat([tiny.flat(task.generator), tiny.flat(task.discriminator)]))
    assert torch.equal(*weights)
