"""Measures of an unfinished denoiser against images whose measures are known, and snapshots."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.settings import make_autoencoder, make_denoiser
from ufogen.base.models import build_autoencoder, build_denoiser
from ufogen.data.nouns import Nouns
from ufogen.data.pairs import make_pairs
from ufogen.errors import UserError
from ufogen.files import altered
from ufogen.pipelines.pretrain.progress import CURVE, HEAD, State, load_snapshot, measure, save_snapshot


@pytest.fixture(scope="module")
def nouns():
    return Nouns.load(Path(__file__).parents[2] / "node_modules")


@pytest.fixture(scope="module")
def pairs(nouns):
    return make_pairs(nouns, 40, 0, "progress")


def test_real_images_are_perfect(nouns, pairs):
    found = measure(pairs.images, pairs, nouns)
    assert found["residual"] == found["residual_head_named"] == found["residual_head_open"] == 0
    assert {value for key, value in found.items() if "accuracy" in key} == {1.0}
    assert found["open_heads"] == (~pairs.mentioned[:, HEAD]).sum()
    assert found["distinct_open_heads"] == found["distinct_real"] > 1


def test_one_picture_for_all_is_clean_but_neither_right_nor_varied(nouns, pairs):
    found = measure(pairs.images[:1].repeat(len(pairs.images), 0), pairs, nouns)
    assert found["residual"] == 0
    assert found["attribute_accuracy"] < 0.5
    assert found["distinct_open_heads"] == 1


def test_distance_is_in_grey_levels(nouns, pairs):
    images = np.where(pairs.images < 128, pairs.images + 2, pairs.images - 2).astype(np.uint8)
    assert measure(images, pairs, nouns)["residual"] == pytest.approx(2, abs=0.05)


def test_snapshot_comes_back_in_half_precision(tmp_path):
    torch.manual_seed(0)
    unet = build_denoiser(make_denoiser(channels=[16, 16, 32], heads=2), latent_channels=8)
    vae = build_autoencoder(make_autoencoder(channels=[8, 8, 16], latent_channels=8))
    vae.register_to_config(scaling_factor=0.7)
    state = State(
        1280, 10, [{"images": 1280, "updates": 10}], {"prediction_type": "v_prediction", "denoiser": {"max_length": 34}}
    )
    save_snapshot(tmp_path / "next", unet, vae, state)
    loaded, loaded_vae, loaded_state = load_snapshot(tmp_path / "next")
    assert loaded_state == state
    assert loaded_vae.config.scaling_factor == 0.7
    for ours, theirs in ((unet, loaded), (vae, loaded_vae)):
        assert all(torch.equal(a.half().float(), b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert altered(tmp_path / "next") == []
    assert (tmp_path / "next" / CURVE).read_text().startswith("images,updates,training_loss")


def test_folder_that_is_no_snapshot_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"pretrain.denoiser.resume is '.*', which is no snapshot"):
        load_snapshot(tmp_path)


def test_a_weight_that_a_snapshot_lacks_is_named_not_drawn(tmp_path):
    unet = make_denoiser(channels=[16, 16, 32], heads=2)
    save_snapshot(
        tmp_path / "next",
        build_denoiser(unet, latent_channels=8),
        build_autoencoder(make_autoencoder(channels=[8, 8, 16], latent_channels=8)),
        State(recipe={"prediction_type": "v_prediction", "denoiser": {"max_length": 34}}),
    )
    path = tmp_path / "next/unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_out.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"snapshot .* lacks 1 of its weights, among them conv_out.weight"):
        load_snapshot(tmp_path / "next")
