"""The denoiser's training leaves a snapshot from which another machine continues, with other images."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.settings import configured, make_autoencoder
from ufogen import config
from ufogen.base.models import build_autoencoder
from ufogen.data import sources
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import Pairs
from ufogen.pipelines.pretrain import denoiser as stage
from ufogen.pipelines.pretrain.progress import load_snapshot

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    monkeypatch.chdir(tmp_path)
    autoencoder = make_autoencoder(channels=[8, 8, 16], latent_channels=8)
    torch.manual_seed(0)
    build_autoencoder(autoencoder).save_pretrained(stage.VAE / "round-0")
    round_ = {
        "updates": 4, "learning_rate": 0.001, "batch_size": 4, "prediction_type": "v_prediction", "autoencoder_round": 0,
        "decay": "constant", "optimizer": "muon", "weight_decay": 0.1,
    }  # fmt: skip
    denoiser = {
        "channels": [16, 16, 32], "heads": 2, "attention": "lower", "max_length": 34, "warmup": 1,
        "precision": "no", "chunk_size": 8, "images_per_caption": 2, "passes": 2, "checkpoint_every": 2, "curve_every": 2,
        "rounds": [round_],
    }  # fmt: skip
    pretrain = {"autoencoder": config.to_dict(autoencoder), "denoiser": denoiser, "validation_size": 8, "curve_size": 4}
    data = {"node_modules": str(ROOT / "node_modules")}
    return configured(device="cpu", threads=1, pretrain=pretrain, data=data)


def test_a_second_stretch_continues_from_the_snapshot_with_other_images(settings, monkeypatch):
    purposes, make_pairs = set(), sources.make_pairs

    def noted(nouns: Nouns, n: int, seed: int, purpose: str, *key: int, **rest) -> Pairs:
        purposes.add(purpose)
        return make_pairs(nouns, n, seed, purpose, *key, **rest)

    monkeypatch.setattr(sources, "make_pairs", noted)
    stage.main(settings)
    _, _, state = load_snapshot(stage.SNAPSHOT)
    assert (state.images, state.updates) == (16, 4)
    assert [row["images"] for row in state.curve] == [8, 16]

    shutil.copytree(stage.SNAPSHOT, "models/next")
    shutil.rmtree("artifacts/pretrain/vae")  # the snapshot has its own
    settings.pretrain.denoiser.resume = "models/next"
    stage.main(settings)
    _, _, state = load_snapshot(stage.SNAPSHOT)
    assert [row["images"] for row in state.curve] == [8, 16, 24, 32]
    assert [row["updates"] for row in state.curve] == [2, 4, 6, 8]
    assert purposes == {"denoiser validation", "denoiser pairs 0", "denoiser pairs 0 after 16 images"}
    result = stage.ARTIFACTS / "pretrain" / "unet" / "round-0"
    assert json.loads((result / "metrics.json").read_text())["prediction_type"] == "v_prediction"
