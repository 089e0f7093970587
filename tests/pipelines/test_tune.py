"""The base made consistent before UFOGen, for a generator that starts from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import tiny
from tests.settings import PLAIN, configured
from tests.shard_files import Pair, write_shard
from ufogen import config
from ufogen.errors import UserError
from ufogen.pipelines.main import encode, train, tune
from ufogen.training.distiller import Distiller

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TRAINER = {
    "updates": 2, "batch_size": 4, "warmup": 0, "keep": "last", "checkpoint_every": 1, "log_every": 1, "discriminator_first": 0,
    "precision": "no",
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a base of tiny networks, pairs encoded by it, and no tuning yet."""
    monkeypatch.chdir(tmp_path)
    tiny.pipeline().save_pretrained("artifacts/base")
    Path("shards").mkdir()
    write_shard(Path("shards/00000.tar"), [Pair(i) for i in range(8)])
    encode.main(settings("tuned"))
    return tmp_path


def settings(init: str, **tuning) -> config.Config:
    data = {"source": "webdataset", "path": "shards", "workers": 1, "encode_batch_size": 4}
    objective = PLAIN | {"entry_timestep": 800, "generator_init": init}
    tuning = {"updates": 4} | tuning
    return configured(device="cpu", threads=1, data=data, trainer=TRAINER, objective=objective, tuning=tuning)


def test_generator_starts_from_what_tuning_made_and_the_discriminator_from_the_base(place, monkeypatch):
    tune.main(settings("tuned"))
    tuned, base = load_file(f"artifacts/tuned/{WEIGHTS}"), load_file(f"artifacts/base/{WEIGHTS}")
    assert any((tuned[name] != base[name]).any() for name in base)
    assert json.loads(Path("artifacts/tuned/card.json").read_text())["images"] == 16
    started = {}

    def see(task, *_, **__):
        started.update(G=task.generator.unet.state_dict(), D=task.discriminator.unet.state_dict())
        raise InterruptedError

    monkeypatch.setattr(train, "fit", see)
    with pytest.raises(InterruptedError):
        train.main(settings("tuned"))
    assert all((started["G"][name] == tuned[name]).all() for name in tuned)
    kept = [name for name in base if not name.startswith(("conv_out", "conv_norm_out"))]  # what is before D's head
    assert all((started["D"][name] == base[name]).all() for name in kept)


def test_without_tuning_there_is_a_card_alone_and_training_needs_nothing_more(place):
    tune.main(settings("base"))
    assert [path.name for path in Path("artifacts/tuned").iterdir()] == ["card.json"]
    train.main(settings("base"))
    with pytest.raises(UserError, match="the tuned generator cannot be loaded: artifacts/tuned/unet is not a folder"):
        train.main(settings("tuned"))


def test_tuning_that_was_stopped_goes_on_to_the_same_bytes_and_refuses_other_settings(place, monkeypatch):
    tune.main(settings("tuned"))
    expected, update = Path("artifacts/tuned", WEIGHTS).read_bytes(), Distiller.update

    def stop(task: Distiller, batch, step: int, draws):
        if step == 3:
            raise InterruptedError
        return update(task, batch, step, draws)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Distiller, "update", stop)
        tune.main(settings("tuned"))
    with pytest.raises(UserError, match="is of a run with another"):
        tune.main(settings("tuned", guidance=1.0))
    tune.main(settings("tuned"))
    assert Path("artifacts/tuned", WEIGHTS).read_bytes() == expected
