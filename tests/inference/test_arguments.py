"""What a caller passes: numbers that are not finite or not whole, and devices on which nothing can be calculated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from ufogen import UFOGen
from ufogen.applications.control import make_control
from ufogen.errors import UserError
from ufogen.inference.arguments import checked_count, checked_number, device_of

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
NO_NUMBERS = [math.nan, math.inf, -math.inf, None, "0.5", [0.5], 1j, 10**400, -0.1, np.float32("nan")]
NO_COUNTS = [math.nan, math.inf, None, "2", 2.0, 1.5, [2], 0, -1]
KINDS = ("meta", "mps", "xla", "hpu", "xpu", "mtia", "vulkan", "ipu", "hip", "lazy", "privateuseone", "mkldnn", "opengl")


@pytest.fixture(scope="module")
def model() -> UFOGen:
    return UFOGen(tiny.pipeline())


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.new("RGB", (16, 16), "red")


@pytest.fixture(scope="module")
def control(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("control") / "controlnet"
    make_control("controlnet", model.pipeline.unet, 2).save_pretrained(folder)
    return folder


def assert_refused(call, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1e30], ids=repr)
def test_fraction_that_is_none_is_one_line_in_every_place(model, image, control, value):
    white = Image.new("L", (16, 16), 255)
    assert_refused(lambda: model.edit(image, "a noun", value), "the strength is .*; allowed: 0 ... 1$")
    assert_refused(lambda: model.inpaint(image, white, "a noun", strength=value), "the strength is .*; allowed: 0 ... 1$")
    scaled = {"controlnet": control, "scale": value}
    assert_refused(lambda: model.control(image, "a noun", **scaled), "the control scale is .*; allowed: 0 ... 100$")


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
def test_number_that_is_not_whole_is_one_line_in_every_place(model, image, control, value):
    for name, said in (("steps", "sampling steps"), ("n", "pictures a prompt"), ("batch_size", "batch size")):
        for call in (
            lambda **settings: model("a noun", **settings),
            lambda **settings: model.edit(image, "a noun", **settings),
            lambda **settings: model.control(image, "a noun", controlnet=control, **settings),
        ):
            assert_refused(lambda call=call, name=name: call(**{name: value}), f"{said} is .*; allowed: ")
    assert_refused(lambda: model.interpolate("a noun", frames=value), "number of frames is .*; allowed: ")


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.float64(1), torch.tensor(0.25), np.int64(1), True])
def test_any_kind_of_number_of_the_range_is_one(value):
    assert checked_number("share", value, 0, 1) == float(value)


@pytest.mark.parametrize("value", [1, np.int64(3), np.uint8(2), torch.tensor(3)])
def test_any_kind_of_whole_number_of_the_range_is_one(value):
    assert checked_count("count", value, 1, 3) == int(value) and type(checked_count("count", value, 1)) is int


@pytest.mark.parametrize("kind", [*KINDS, "", "  ", "CPU", "cpu0", "meta:0", 1.5, []], ids=repr)
def test_device_without_numbers_is_one_line(kind):
    if kind in KINDS and kind != "meta" and getattr(getattr(torch, kind, None), "is_available", bool)():
        pytest.skip("this machine has one")
    with pytest.raises(UserError, match="^device .* cannot be used: .*; allowed here: auto, cpu") as raised:
        device_of(kind)
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


def test_device_that_calculates_is_taken():
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda")
