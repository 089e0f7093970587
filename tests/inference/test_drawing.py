"""`UFOGen.control`: a new ControlNet changes nothing, a trained one does, and what does not fit is one clear error."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from tests import tiny
from ufogen import UFOGen
from ufogen.applications.control import make_control
from ufogen.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
PROMPT, OTHER, SIDE = "a noun with red glasses", "the head", 2 * tiny.SIZE


@pytest.fixture(scope="module")
def model() -> UFOGen:
    return UFOGen(tiny.pipeline())


@pytest.fixture(scope="module")
def source() -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(blocks.repeat(SIDE // 4, 0).repeat(SIDE // 4, 1))


@pytest.fixture(scope="module")
def new(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "controlnet"
    make_control("controlnet", model.pipeline.unet, 2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "controlnet"
    network = make_control("controlnet", model.pipeline.unet, 2)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    network.save_pretrained(folder)
    return folder


def bytes_of(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


@pytest.mark.parametrize("steps", [1, 2])
def test_new_controlnet_draws_the_models_own_pictures(model, source, new, steps):
    found = model.control(source, [PROMPT, OTHER], seed=3, n=2, steps=steps, controlnet=new)
    assert bytes_of(found) == bytes_of(model([PROMPT, OTHER], seed=3, n=2, steps=steps))


def test_trained_one_steers_by_the_image_and_not_at_scale_0(model, source, trained):
    plain, turned = bytes_of(model(PROMPT, seed=3)), source.transpose(Image.Transpose.ROTATE_90)
    assert bytes_of(model.control(source, PROMPT, seed=3, controlnet=trained, scale=0.0)) == plain
    pictures = [model.control(image, PROMPT, seed=3, controlnet=trained) for image in (source, turned)]
    assert len({*plain, *bytes_of(pictures[0]), *bytes_of(pictures[1])}) == 3


def test_batch_size_changes_rounding_alone(model, source, trained):
    one = model.control(source, PROMPT, seed=3, n=3, controlnet=trained)
    for a, b in zip(one, model.control(source, PROMPT, seed=3, n=3, batch_size=3, controlnet=trained), strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


def test_absent_or_foreign_controlnet_and_bad_scale_are_user_errors(model, source, new, tmp_path):
    with pytest.raises(UserError, match="is not a ControlNet's folder"):
        model.control(source, PROMPT, controlnet=tmp_path)
    with pytest.raises(UserError, match="the control scale is -1; allowed: 0 ... 100"):
        model.control(source, PROMPT, controlnet=new, scale=-1)
    other = UNet2DConditionModel.from_config(dict(tiny.unet().config) | {"cross_attention_dim": 24})
    make_control("controlnet", other, 2).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="for another model: its cross_attention_dim is 24, this model's 16"):
        model.control(source, PROMPT, controlnet=tmp_path / "other")
    make_control("controlnet", tiny.unet(), 2).save_pretrained(tmp_path / "damaged")
    next((tmp_path / "damaged").glob("*.safetensors")).write_bytes(b"x")
    with pytest.raises(UserError, match="damaged cannot be loaded"):
        model.control(source, PROMPT, controlnet=tmp_path / "damaged")
