"""A base pretrained on own pictures of 64 px, from nothing to a folder that the main chain takes."""

import json
from pathlib import Path

import pytest

from tests.folder_files import pictures_folder
from tests.settings import configured
from ufogen import config
from ufogen.base.loading import load_base
from ufogen.data.sources import open_source
from ufogen.errors import UserError
from ufogen.pipelines.main import initialize
from ufogen.pipelines.pretrain import autoencoder, decoder, denoiser, release

SIDE = 64


@pytest.fixture
def settings(tmp_path, monkeypatch) -> config.Config:
    monkeypatch.chdir(tmp_path)
    pictures_folder(Path("pictures"), 12)
    few = {"updates": 2, "learning_rate": 0.001, "optimizer": "adam"}
    round_ = few | {
        "batch_size": 2, "weight_decay": 0.0, "prediction_type": "v_prediction", "autoencoder_round": 0, "decay": "cosine",
    }  # fmt: skip
    pretrain = {
        "autoencoder": {
            "channels": [8, 8, 16], "batch_size": 2, "warmup": 0, "precision": "no",
            "rounds": [few | {"kl_weight": 0.0001, "absolute_error": True, "latent_noise": 0.0}],
        },
        "denoiser": {
            "channels": [16, 16, 32], "heads": 2, "max_length": 12, "warmup": 0, "precision": "no", "chunk_size": 16,
            "images_per_caption": 2, "passes": 2, "checkpoint_every": 2, "curve_every": 2, "rounds": [round_],
        },
        "decoder": {"updates": 1, "batch_size": 2, "warmup": 0, "discriminator_channels": 4},
        "validation_size": 8,
    }  # fmt: skip
    data = {"source": "folder", "path": "pictures", "resolution": SIDE, "evaluation_size": 4, "workers": 1}
    base = {"source": "pretrained", "path": "artifacts/pretrain/base"}
    return configured(device="cpu", threads=1, pretrain=pretrain, data=data, base=base)


@pytest.mark.slow
def test_a_base_of_own_pictures_goes_into_the_main_chain(settings):
    for stage in (autoencoder, denoiser, decoder, release, initialize):
        stage.main(settings)
    base = load_base("artifacts/base")
    assert base.unet.config.sample_size == SIDE // 4 == base.vae.config.sample_size // 4
    assert base.tokenizer.model_max_length == 12
    (row,) = json.loads(Path("artifacts/pretrain/next/state.json").read_text())["curve"]
    assert row["validation_loss"] > 0 and "residual" not in row
    before = Path("artifacts/pretrain/vae/round-0/run.json").read_text()
    Path("pictures/below/1.txt").write_text("another caption")
    autoencoder.main(settings)
    assert Path("artifacts/pretrain/vae/round-0/run.json").read_text() != before


def test_pictures_that_are_held_are_not_trained_on(settings):
    source = open_source(settings)
    held = {image.tobytes() for image in source.held_pairs(8, "x").images}
    assert len(held) == 4 == len(source.held_images(8, "x"))
    for images in (source.images(50, "x", 1), source.pairs(50, "x", 1).images):
        assert len(images) == 50 and len({image.tobytes() for image in images}) == 8
        assert held.isdisjoint(image.tobytes() for image in images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 40}, r"^parameter data\.resolution is 40; allowed for the channels of pretrain: multiples of 16$"),
        ({"source": "webdataset"}, r"^parameter data\.source is webdataset; allowed for pretraining: nouns, folder$"),
        ({"evaluation_size": 12}, r"^parameter data\.evaluation_size is 12; allowed: 1 \.\.\. 11$"),
    ],
)
def test_what_cannot_be_pretrained_on_is_one_line(settings, changes, message):
    for name, value in changes.items():
        setattr(settings.data, name, value)
    with pytest.raises(UserError, match=message):
        autoencoder.main(settings)
