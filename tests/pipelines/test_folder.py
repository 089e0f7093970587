"""A folder of own pictures through every stage of the main chain, on tiny networks."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.folder_files import pictures_folder
from tests.settings import configured
from ufogen import UFOGen, config
from ufogen.data.folder import Folder
from ufogen.errors import UserError
from ufogen.pipelines.applications import control_train
from ufogen.pipelines.main import encode, evaluate, export, figures, prepare, sample, train, tune

SIDE = 2 * tiny.SIZE
HELD = 6


pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")


@pytest.fixture
def settings(tmp_path, monkeypatch) -> config.Config:
    monkeypatch.chdir(tmp_path)
    tiny.pipeline().save_pretrained("artifacts/base")
    pictures_folder(Path("pictures"), 20)
    data = {"source": "folder", "path": "pictures", "resolution": SIDE, "evaluation_size": HELD, "workers": 1}
    few = {
        "precision": "no",
        "discriminator_first": 0,
        "updates": 2,
        "batch_size": 4,
        "warmup": 0,
        "validation_size": 5,
        "checkpoint_every": 1,
        "log_every": 1,
    }
    return configured(
        device="cpu", threads=1, data=data, trainer=few | {"sample_every": 1, "validate_every": 1},
        tuning={"updates": 2},
        sampler={"ufogen_steps": [1], "base_solvers": ["ddim"], "base_steps": [2], "batch_size": 4, "grid_prompts": 3},
        evaluation={"kid_subset_size": 4, "kid_subsets": 2, "latency_batch_size": 2, "latency_repeats": 1},
    )  # fmt: skip


@pytest.mark.slow
def test_own_pictures_go_through_every_stage(settings):
    for stage in (prepare, encode, tune, train, export, sample, evaluate, figures):
        stage.main(settings)
    folder = Folder(settings.data, settings.seed)
    card = json.loads(Path("artifacts/data/card.json").read_text())
    assert card["counts"] == folder.counts == {"images": 20, "kept": 20}
    assert np.load("artifacts/encoded/latents.npy").shape == (14, 4, tiny.SIZE, tiny.SIZE)
    assert np.array_equal(np.load("artifacts/data/evaluation/images.npy"), folder.images[folder.held])
    with Path("artifacts/train/validation.csv").open() as file:
        assert [row["update"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    assert np.load("artifacts/samples/evaluation/ufogen-renoise-1.npy").shape == (HELD, SIDE, SIDE, 3)
    with Path("paper/results/main.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["sampler"], row["n"], row["named"]) for row in rows] == [
        ("ufogen", "renoise", "6", "all"), ("base", "ddim", "6", "all"), ("real", "none", "6", "all"),
        ("real", "autoencoder", "6", "all"),
    ]  # fmt: skip
    assert all(np.isfinite(float(row["kid_lite0"])) and row["residual"] == "" for row in rows)
    summary = json.loads(Path("paper/results/summary.json").read_text())
    assert summary == {name: {"kid_lite0": summary[name]["kid_lite0"]} for name in ("ufogen-renoise-1", "base-ddim-2")}
    assert "quality_against_steps.png" in {path.name for path in Path("paper/figures").iterdir()}
    assert UFOGen.from_pretrained("artifacts/ufogen", device="cpu").image_size == (SIDE, SIDE)


def test_other_captions_are_another_run(settings):
    prepare.main(settings)
    encode.main(settings)
    before = Path("artifacts/encoded/card.json").read_text()
    Path("pictures/below/1.txt").write_text("red glasses")
    prepare.main(settings)
    encode.main(settings)
    assert Path("artifacts/encoded/card.json").read_text() != before


@pytest.mark.parametrize(
    ("size", "message"),
    [(3, r"is 3; allowed with the 20 pictures of pictures that can be used: 4 \.\.\. 16"), (17, r"is 17; .*: 4 \.\.\. 16")],
)
def test_too_few_pictures_are_said_before_anything_is_trained(settings, size, message):
    settings.data.evaluation_size = size
    with pytest.raises(UserError, match=r"^parameter data\.evaluation_size " + message):
        prepare.main(settings)
    assert not Path("artifacts/data").exists()


def test_control_by_edges_is_of_nouns(settings):
    with pytest.raises(UserError, match=r"^parameter data\.source is folder; allowed for control by edges: nouns"):
        control_train.main(settings)
