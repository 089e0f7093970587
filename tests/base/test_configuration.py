"""What a folder says of itself is checked where it enters: one line before a weight is read, in `initialize` and everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from tests import tiny
from tests.base.spoiled import change, linked_copy, refused
from tests.settings import make_base
from ufogen import UFOGen
from ufogen.base.checkpoints import load_checkpoint
from ufogen.base.loading import load_base
from ufogen.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
LOADERS = {
    "initialize": lambda folder: load_checkpoint(make_base("diffusers", str(folder))),
    "training": load_base,
    "api": lambda folder: UFOGen.from_pretrained(folder, device="cpu"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    tiny.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return linked_copy(whole, tmp_path / "copy")


def rewrite(path: Path, content) -> None:
    path.unlink()  # what it is linked to stays
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def without(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    del content[key]
    rewrite(path, content)


def assert_refused_everywhere(folder: Path, message: str) -> None:
    for load in LOADERS.values():
        with pytest.raises(UserError, match=message) as raised:
            load(folder)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_sides_as_height_and_width_are_a_square(copy, load):
    change(copy / "unet/config.json", sample_size=[8, 8])
    loaded = load(copy)
    assert getattr(loaded, "image_size", (16, 16)) == (16, 16)


def test_base_of_a_square_has_one_side(copy):
    change(copy / "unet/config.json", sample_size=[8, 8])
    assert load_checkpoint(make_base("diffusers", str(copy))).unet.config.sample_size == 8
    change(copy / "unet/config.json", sample_size=[8, 16])
    refused(r"sample_size \[8, 16\], which is no square", "diffusers", path=str(copy))
    assert UFOGen.from_pretrained(copy, device="cpu").image_size == (32, 16)


@pytest.mark.parametrize("size", [None, "8", 8.0, 0, -8, True, [], [8], [8, None], [8, 8, 8]])
def test_sample_size_that_is_none_is_one_line(copy, size):
    change(copy / "unet/config.json", sample_size=size)
    assert_refused_everywhere(copy, "U-Net with sample_size .*; allowed: the side of its latents")


@pytest.mark.parametrize("content", [[], None, 3, "text", "{", "\x00", "[" * 100_000])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_file_that_is_no_object_of_settings_is_one_line(copy, file, content):
    rewrite(copy / file, content)
    assert_refused_everywhere(copy, f"{file} (holds|cannot be read)")


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("text_encoder", "hidden_size"),
        ("vae", "latent_channels"),
        ("unet", "in_channels"),
        ("unet", "out_channels"),
        ("unet", "cross_attention_dim"),
    ],
)
def test_key_that_is_missing_or_no_number_is_named(copy, part, key):
    path = copy / part / "config.json"
    for value in ("4", 4.0, [4], -1, True):
        change(path, **{key: value})
        assert_refused_everywhere(copy, f"{part}/config.json with {key} .*; allowed: a whole number above 0")
    without(path, key)
    assert_refused_everywhere(copy, f"{part}/config.json with {key} null; allowed")


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, EDMEulerScheduler])
def test_scheduler_without_alpha_bar_is_refused_where_it_enters(copy, kind):
    for path in (copy / "scheduler").iterdir():
        path.unlink()
    kind().save_pretrained(copy / "scheduler")
    change(copy / "model_index.json", scheduler=["diffusers", kind.__name__])
    assert_refused_everywhere(copy, f"no noise schedule, {kind.__name__}; allowed: one with betas, such as DDIMScheduler")


@pytest.mark.parametrize(
    "settings", [{"beta_start": "a"}, {"beta_end": 2.0}, {"num_train_timesteps": 0}, {"beta_schedule": "x"}]
)
def test_noise_schedule_that_is_none_is_refused(copy, settings):
    change(copy / "scheduler/scheduler_config.json", **settings)
    assert_refused_everywhere(copy, "no noise schedule, DDIMScheduler; allowed")


@pytest.mark.parametrize(
    ("part", "entry", "allowed"),
    [
        ("unet", ["diffusers", "UNet2DModel"], "UNet2DConditionModel"),
        ("vae", ["diffusers", "AutoencoderTiny"], "AutoencoderKL"),
        ("vae", ["my_code", "AutoencoderKL"], "AutoencoderKL"),
        ("text_encoder", ["transformers", "NoSuchModel"], "a class of transformers"),
        ("tokenizer", None, "a class of transformers"),
        ("scheduler", "DDIMScheduler", "a class of diffusers"),
        ("scheduler", ["diffusers", 3], "a class of diffusers"),
    ],
)
def test_index_that_names_another_class_is_refused(copy, part, entry, allowed):
    change(copy / "model_index.json", **{part: entry})
    assert_refused_everywhere(copy, f"as {part}; allowed: {allowed}$")


def test_tokenizer_without_a_length_is_refused(copy):
    without(copy / "tokenizer/tokenizer_config.json", "model_max_length")
    assert_refused_everywhere(copy, r"model_max_length 10+\d*; allowed: at most 512.*tokenizer_config.json")
