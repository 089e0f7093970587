"""The Python API: its pictures are stock diffusers', one at a time or many, and bad input is one clear error."""

from __future__ import annotations

import hashlib
import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline
from PIL import Image

from tests import tiny
from ufogen import UFOGen
from ufogen.base import models
from ufogen.base.autoencoder import decode_latents, encode_images
from ufogen.base.models import SCHEDULE
from ufogen.base.text import encode_text
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_generator
from ufogen.errors import UserError
from ufogen.inference import api
from ufogen.inference.arguments import LAST_SEED
from ufogen.inference.export import export_pipeline

# diffusers warns about its own defaults and its own use of numpy
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
PROMPT, OTHER = "a noun with red glasses", "the head"
SIDE = 2 * tiny.SIZE
ABAR = tiny.schedule().alpha_bar(torch.arange(1000))


def export(folder: Path, prediction_type: str) -> Path:
    base = tiny.pipeline()
    base.scheduler = DDIMScheduler(**SCHEDULE | {"prediction_type": prediction_type})
    export_pipeline(base, tiny.unet(seed=9), folder)
    return folder


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory) -> Path:
    return export(tmp_path_factory.mktemp("model") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> UFOGen:
    return UFOGen.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> UFOGen:
    """For what does not depend on the prediction."""
    return UFOGen.from_pretrained(export(tmp_path_factory.mktemp("plain") / "model", "v_prediction"), device="cpu")


@pytest.fixture(scope="module")
def source() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, count: int = 1) -> list[torch.Tensor]:
    """The first `count` noises of a seed."""
    generator = rng(seed)
    return [torch.randn(1, tiny.CHANNELS, tiny.SIZE, tiny.SIZE, generator=generator) for _ in range(count)]


def bytes_of(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


def assert_close(image: Image.Image, expected: np.ndarray) -> None:
    """Equal but for what rounding to whole numbers may turn over."""
    difference = np.abs(np.asarray(image, int) - expected.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def latent_of(model: UFOGen, image: Image.Image) -> torch.Tensor:
    return encode_images(np.array(image)[None], model.pipeline.vae)


def generator_of(model: UFOGen) -> Generator:
    return Generator(model.pipeline.unet, tiny.schedule(), model.pipeline.scheduler.config.prediction_type)


def states_of(model: UFOGen, prompt: str) -> torch.Tensor:
    return encode_text([prompt], model.pipeline.text_encoder, model.pipeline.tokenizer)


def timesteps_of(model: UFOGen, call) -> list[int]:
    """The timesteps at which `call` passes through the network."""
    seen = []
    hook = model.pipeline.unet.register_forward_pre_hook(lambda module, arguments: seen.append(int(arguments[1])))
    try:
        call()
    finally:
        hook.remove()
    return seen


# text to image


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_picture_is_stock_diffusers_with_the_same_noise(model, folder, steps):
    stock = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    expected = stock(PROMPT, num_inference_steps=steps, guidance_scale=0, generator=rng(3)).images
    assert bytes_of(model(PROMPT, seed=3, steps=steps)) == bytes_of(expected)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_picture_is_our_sampler_with_the_same_noise(model, steps):
    generator = rng(3)
    noise = torch.randn(1, tiny.CHANNELS, tiny.SIZE, tiny.SIZE, generator=generator)
    x_0 = sample_generator(generator_of(model), noise, states_of(model, PROMPT), tiny.schedule(), steps, generator)
    assert_close(model(PROMPT, seed=3, steps=steps)[0], decode_latents(x_0, model.pipeline.vae)[0])


def test_seeds_and_prompts_change_the_picture(model):
    images = model([PROMPT, OTHER], seed=3, n=2)
    assert [image.size for image in images] == [(SIDE, SIDE)] * 4 and {image.mode for image in images} == {"RGB"}
    assert len(set(bytes_of(images))) == 4


@pytest.mark.parametrize("steps", [1, 2])
def test_picture_does_not_depend_on_what_else_is_asked_for(model, steps):
    many = bytes_of(model([PROMPT, OTHER], seed=3, n=3, steps=steps))
    single = [bytes_of(model(prompt, seed=seed, steps=steps))[0] for prompt in (PROMPT, OTHER) for seed in (3, 4, 5)]
    assert many == single


def test_batches_differ_by_rounding_alone(model):
    one = model([PROMPT, OTHER], seed=3, n=3, steps=2)
    for image, expected in zip(model([PROMPT, OTHER], seed=3, n=3, steps=2, batch_size=4), one, strict=True):
        assert_close(image, np.asarray(expected))


@pytest.mark.parametrize("seeds", [[7, 3, 7], (7, 3, 7), np.array([7, 3, 7])])
def test_list_names_the_seed_of_each_picture(plain, seeds):
    images = bytes_of(plain(PROMPT, seed=seeds, n=3))
    assert images[0] == images[2] == bytes_of(plain(PROMPT, seed=7))[0]
    assert images[1] == bytes_of(plain(PROMPT, seed=3))[0]


def test_greatest_seed_is_allowed_and_a_greater_one_would_repeat_a_smaller(plain):
    assert len(plain(PROMPT, seed=LAST_SEED)) == 1
    assert torch.equal(torch.randn(64, generator=rng(3)), torch.randn(64, generator=rng(3 + LAST_SEED + 1)))


@pytest.mark.parametrize(
    "prompt",
    ["", " ", "x" * 10_000, "red " * 2_500, "鯊魚 акула سمك 🦈", "a\x00noun\x1b[31m\r\n\t\x7f", "\u202ea noun\ufeff"],
    ids=["empty", "blank", "one long word", "10,000 characters", "scripts", "control", "direction"],
)
def test_any_text_makes_a_picture(plain, prompt):
    assert plain(prompt)[0].size == (SIDE, SIDE)


def test_prompt_that_is_cut_is_told(plain):
    assert plain.reads_whole("red " * (tiny.TOKENS - 2))  # two are start and end
    assert not plain.reads_whole("red " * (tiny.TOKENS - 1))
    assert bytes_of(plain("red " * 6)) == bytes_of(plain("red " * 6 + "glasses"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed is -1; allowed: 0 ... 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296; allowed"),
        ({"seed": 2**63}, "allowed: 0 ... 4294967295"),
        ({"seed": 10**30}, "allowed: 0 ... 4294967295"),
        ({"seed": 2**32 - 2, "n": 3}, "last of 3 seeds is 4294967296"),
        ({"seed": 1.5}, "whole number, not 1.5"),
        ({"seed": "three"}, "whole number, not 'three'"),
        ({"seed": None}, "whole number, not None"),
        ({"seed": [1, -2], "n": 2}, "seed is -2"),
        ({"seed": [1, 2]}, "2 seeds for 1 pictures"),
        ({"steps": 0}, "steps is 0; allowed: 1 ... 1000"),
        ({"steps": 1001}, "steps is 1001; allowed"),
        ({"n": 0}, "pictures a prompt is 0; allowed: 1"),
        ({"n": 10**12}, "allowed: 1 ... 100000"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"prompt": []}, "number of prompts is 0"),
        ({"prompt": [3]}, "a prompt is a text, not int"),
        ({"prompt": None}, "a prompt is a text, not NoneType"),
        ({"prompt": "a\ud800noun"}, "not valid Unicode at character 2"),
    ],
)
def test_impossible_request_is_a_user_error(plain, settings, message):
    with pytest.raises(UserError, match=message) as raised:
        plain(**{"prompt": PROMPT} | settings)
    assert "\n" not in str(raised.value)


# image to image


def test_edit_at_strength_0_is_the_autoencoder_alone(model, source):
    expected = decode_latents(latent_of(model, source), model.pipeline.vae)[0]
    for image in model.edit(source, PROMPT, 0.0, seed=3, n=2):
        assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("strength", "t"), [(0.05, 49), (0.5, 499), (0.8, 799), (1.0, 999)])
def test_edit_is_one_pass_from_the_noised_image(model, source, strength, t):
    x_t = ABAR[t].sqrt() * latent_of(model, source) + (1 - ABAR[t]).sqrt() * draw(3)[0]
    with torch.no_grad():
        x_0 = generator_of(model)(x_t.float(), torch.tensor([t]), states_of(model, PROMPT))
    assert_close(model.edit(source, PROMPT, strength, seed=3)[0], decode_latents(x_0, model.pipeline.vae)[0])


def test_edit_at_strength_1_has_the_noise_of_generation_and_a_trace_of_the_image(model, source):
    """x_T - sqrt(abar_T) x_0 = sqrt(1 - abar_T) noise, with the very noise that generation with this seed begins with."""
    inputs = []
    hook = model.pipeline.unet.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    try:
        model(PROMPT, seed=3)
        model.edit(source, PROMPT, 1.0, seed=3)
    finally:
        hook.remove()
    trace = inputs[1] - (1 - ABAR[999]).sqrt().float() * inputs[0]
    torch.testing.assert_close(trace, ABAR[999].sqrt().float() * latent_of(model, source), rtol=1e-4, atol=1e-5)


def test_edit_at_the_first_timestep_keeps_the_image_but_for_its_noise(model, source):
    x_t = ABAR[0].sqrt() * latent_of(model, source) + (1 - ABAR[0]).sqrt() * draw(3)[0]
    assert_close(model.edit(source, PROMPT, 0.001, seed=3)[0], decode_latents(x_t.float(), model.pipeline.vae)[0])


@pytest.mark.parametrize(
    ("strength", "steps", "expected"),
    [(0.6, 1, [599]), (0.6, 2, [599, 299]), (0.5, 4, [499, 374, 249, 124]), (1.0, 4, [999, 749, 499, 249]), (0.0, 3, [])],
)
def test_edit_passes_as_often_as_it_is_asked_to(plain, source, strength, steps, expected):
    assert timesteps_of(plain, lambda: plain.edit(source, PROMPT, strength, steps=steps)) == expected


@pytest.mark.parametrize("strength, steps", [(0.3, 1), (0.7, 4), (1, 2)])
def test_edits_and_inpainting_warn_of_nothing(plain, source, strength, steps, monkeypatch: pytest.MonkeyPatch):
    said, logger = [], logging.getLogger(LCMScheduler.__module__)
    monkeypatch.setattr(logger, "handlers", [Collected(said)])
    plain.edit(source, "a cat", strength, steps=steps)
    plain.inpaint(source, Image.new("L", source.size, 255), "a cat", strength=strength, steps=steps)
    assert said == [] and not logger.disabled
    plain.pipeline.scheduler.set_timesteps(timesteps=[3, 1])
    assert said  # so that the test would hear it


class Collected(logging.Handler):
    """Messages in a list."""

    def __init__(self, said: list[str]):
        super().__init__()
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def test_edit_does_not_depend_on_what_else_is_asked_for(model, source):
    many = bytes_of(model.edit(source, [PROMPT, OTHER], 0.7, seed=3, n=2, steps=2))
    single = [bytes_of(model.edit(source, p, 0.7, seed=s, steps=2))[0] for p in (PROMPT, OTHER) for s in (3, 4)]
    assert many == single and len(set(many)) == 4
    model(PROMPT, steps=2)
    assert bytes_of(model.edit(source, PROMPT, 0.7, seed=3, steps=2)) == many[:1]


def test_edits_of_a_batch_differ_by_rounding_alone(model, source):
    one = model.edit(source, PROMPT, 0.7, n=3, steps=2)
    for image, expected in zip(model.edit(source, PROMPT, 0.7, n=3, steps=2, batch_size=2), one, strict=True):
        assert_close(image, np.asarray(expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -0.1}, r"strength is -0.1; allowed: 0 ... 1"),
        ({"strength": 1.1}, "strength is 1.1"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": 0.002, "steps": 3}, r"steps is 3; allowed: 1 ... 2"),
        ({"steps": 0}, "steps is 0"),
        ({"strength": 0.0, "steps": 0}, "steps is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_edit_is_a_user_error(plain, source, settings, message):
    with pytest.raises(UserError, match=message):
        plain.edit(source, PROMPT, **settings)


# inpainting


def mask_of(*boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    for box in boxes:
        mask.paste(255, box)
    return mask


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_inpainting_everything_is_generation(model, source, steps):
    found = model.inpaint(source, mask_of((0, 0, SIDE, SIDE)), PROMPT, seed=3, steps=steps)
    assert bytes_of(found) == bytes_of(model(PROMPT, seed=3, steps=steps))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_keeps_every_pixel_outside_the_mask(model, source, strength):
    mask = mask_of((3, 2, 9, 16))
    inside = np.asarray(mask) > 0
    for image in model.inpaint(source, mask, PROMPT, n=2, strength=strength):
        assert np.array_equal(np.asarray(image)[~inside], np.asarray(source)[~inside])
        assert (np.asarray(image)[inside] != np.asarray(source)[inside]).any(axis=1).mean() > 0.9


def test_inpainting_draws_masks_thinner_than_a_latent_position(plain, source):
    """Pixel (5, 5) is not the one of its latent position that diffusers would look at."""
    mask = mask_of((5, 5, 6, 6))
    images = [np.asarray(image) for image in plain.inpaint(source, mask, PROMPT, n=4)]
    assert len({image[5, 5].tobytes() for image in images}) > 1


@pytest.mark.parametrize(
    ("strength", "steps", "expected"), [(1.0, 1, [999]), (1.0, 4, [999, 749, 499, 249]), (0.6, 2, [599, 299])]
)
def test_inpainting_passes_as_often_as_it_is_asked_to(plain, source, strength, steps, expected):
    mask = mask_of((0, 0, 8, 8))
    assert timesteps_of(plain, lambda: plain.inpaint(source, mask, PROMPT, strength=strength, steps=steps)) == expected


def test_inpainting_does_not_depend_on_what_else_is_asked_for(model, source):
    mask = mask_of((0, 0, SIDE, 8))
    many = bytes_of(model.inpaint(source, mask, [PROMPT, OTHER], seed=3, n=2))
    assert many == [bytes_of(model.inpaint(source, mask, p, seed=s))[0] for p in (PROMPT, OTHER) for s in (3, 4)]
    assert len(set(many)) == 4


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (SIDE, SIDE)), "black everywhere"),
        (Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 0)), "black everywhere"),
        (Image.new("L", (SIDE, SIDE + 1), 255), "mask, 16x17, does not have the shape of the image, 16x16"),
    ],
)
def test_useless_mask_is_a_user_error(plain, source, mask, message):
    with pytest.raises(UserError, match=message):
        plain.inpaint(source, mask, PROMPT)


def test_inpainting_without_strength_is_a_user_error(plain, source):
    with pytest.raises(UserError, match="too little to draw anything"):
        plain.inpaint(source, mask_of((0, 0, 4, 4)), PROMPT, strength=0.0)


# interpolation


def test_ends_of_an_interpolation_are_the_pictures_of_the_ends(model):
    frames = bytes_of(model.interpolate([PROMPT, OTHER], [3, 8], frames=5))
    assert len(set(frames)) == 5
    assert [frames[0], frames[-1]] == [*bytes_of(model(PROMPT, seed=3)), *bytes_of(model(OTHER, seed=8))]


def test_one_prompt_or_one_seed_stays_as_it_is(plain):
    assert len(set(bytes_of(plain.interpolate(PROMPT, 3, frames=3)))) == 1
    assert bytes_of(plain.interpolate(PROMPT, [3, 3], frames=3)) == bytes_of(plain(PROMPT, seed=3)) * 3
    seeds = bytes_of(plain.interpolate(PROMPT, [3, 8], frames=3))
    assert seeds[-1] == bytes_of(plain(PROMPT, seed=8))[0] and len(set(seeds)) == 3


def test_great_circle_keeps_the_length_and_halves_the_angle():
    a, b = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(api.slerp(a, b, 0.5), torch.full((2,), 0.5**0.5, dtype=torch.float64))
    torch.testing.assert_close(api.slerp(a, b, 1 / 3), torch.tensor([3**0.5 / 2, 0.5], dtype=torch.float64))
    for share, expected in ((0.0, a), (1.0, b)):
        torch.testing.assert_close(api.slerp(a, b, share), expected)
    assert torch.equal(api.slerp(a, a, 0.3), a)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": [PROMPT] * 3}, "one or two prompts and seeds, got 3 and 1"),
        ({"seed": [1, 2, 3]}, "got 1 and 3"),
        ({"seed": []}, "got 1 and 0"),
        ({"seed": -1}, "seed is -1"),
        ({"frames": 1}, "frames is 1; allowed: 2"),
        ({"batch_size": 0}, "batch size is 0"),
    ],
)
def test_impossible_interpolation_is_a_user_error(plain, settings, message):
    with pytest.raises(UserError, match=message):
        plain.interpolate(**{"prompt": PROMPT} | settings)


# images


def test_enlarged_pixel_art_comes_back_as_it_was(source):
    enlarged = source.resize((8 * SIDE, 8 * SIDE), Image.Resampling.NEAREST)
    assert api.open_image(enlarged, (SIDE, SIDE)).tobytes() == source.tobytes()


def test_middle_square_of_a_wide_image_is_used(source):
    wide = Image.new("RGB", (3 * SIDE, SIDE))
    wide.paste(source, (SIDE, 0))
    assert api.open_image(wide, (SIDE, SIDE)).tobytes() == source.tobytes()


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (40, 40), 100), (100, 100, 100)),
        (Image.new("1", (40, 40), 1), (255, 255, 255)),
        (Image.new("LA", (40, 40), (100, 0)), (255, 255, 255)),
        (Image.new("RGBA", (40, 40), (0, 0, 255, 0)), (255, 255, 255)),
        (Image.new("RGBA", (40, 40), (0, 0, 255, 255)), (0, 0, 255)),
        (Image.new("RGB", (40, 40), (9, 80, 200)).quantize(4), (9, 80, 200)),
        (Image.fromarray(np.full((40, 40), 51400, np.uint16)), (200, 200, 200)),
        (Image.new("I", (40, 40), 51400), (200, 200, 200)),
        (Image.new("CMYK", (40, 40), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGB", (1, 1), (9, 80, 200)), (9, 80, 200)),
        (Image.new("RGB", (1, 3000), (9, 80, 200)), (9, 80, 200)),
        (Image.new("RGB", (5000, 4000), (9, 80, 200)), (9, 80, 200)),
    ],
    ids="grey bit grey+alpha clear opaque palette 16bit 32bit cmyk 1pixel thin 20megapixels".split(),
)
def test_any_kind_of_image_is_read(plain, image, colour):
    assert api.open_image(image, (SIDE, SIDE)).getcolors() == [(SIDE * SIDE, colour)]
    assert plain.edit(image, PROMPT)[0].size == (SIDE, SIDE)


def test_palette_with_a_clear_colour_is_laid_on_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 255])
    image.save(tmp_path / "clear.png", transparency=0)
    assert api.open_image(tmp_path / "clear.png", (SIDE, SIDE)).getcolors() == [(SIDE * SIDE, (255, 255, 255))]


def broken(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_image_that_cannot_be_read_is_a_user_error_that_names_it(plain, source, tmp_path):
    source.resize((200, 200)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for path in (
        broken(tmp_path / "empty.png", b""),
        broken(tmp_path / "text.png", b"not an image"),
        broken(tmp_path / "cut.png", whole[: len(whole) // 2]),
        broken(tmp_path / "head.png", whole[:20]),
        tmp_path / "missing.png",
        tmp_path,
    ):
        with pytest.raises(UserError, match=f"image {path} cannot be read") as raised:
            plain.edit(path, PROMPT)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("side", "message"), [(10_001, r"bomb.png has 10001x10001 pixels; allowed"), (60_000, r"bomb.png cannot be read: .*bomb")]
)
def test_image_that_unpacks_to_too_much_is_a_user_error(tmp_path, side, message):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header) - 4) + header + struct.pack(">I", zlib.crc32(header))
    data = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path = broken(tmp_path / "bomb.png", b"\x89PNG\r\n\x1a\n" + chunk + data)
    with pytest.raises(UserError, match=message):
        api.open_image(path, (SIDE, SIDE))


# loading


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("missing", None, "is not a folder"),
        ("empty", lambda f: f.mkdir(), "neither model_index.json nor unet"),
        ("cut", lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"damaged"), "cannot be loaded"),
        ("lacking", lambda f: (f / "vae/config.json").unlink(), "cannot be loaded"),
        ("index", lambda f: (f / "model_index.json").write_text("{"), "cannot be loaded"),
        (
            "other",
            lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
            "is a FluxPipeline; a StableDiffusionPipeline is needed",
        ),
    ],
)
def test_folder_that_is_no_model_is_a_user_error(tmp_path, name, damage, message):
    if name not in ("missing", "empty"):
        export(tmp_path / name, "epsilon")
    if damage:
        damage(tmp_path / name)
    with pytest.raises(UserError, match=message) as raised:
        UFOGen.from_pretrained(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_model_of_several_steps_is_sampled_as_ufogen(tmp_path, model, folder):
    """The base's own folder, with its own scheduler and the trained U-Net."""
    base = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    kind = base.scheduler.config.prediction_type
    base.scheduler = DDIMScheduler(**SCHEDULE | {"prediction_type": kind})
    base.save_pretrained(tmp_path)
    loaded = UFOGen.from_pretrained(tmp_path)
    assert bytes_of(loaded(PROMPT, seed=3, steps=2)) == bytes_of(model(PROMPT, seed=3, steps=2))
    assert (loaded.describe()["one_step"], model.describe()["one_step"]) == (False, True)


@pytest.mark.parametrize("place", ["package", "checkout"])
def test_released_model_is_found_and_joined_with_its_base(tmp_path, monkeypatch, plain, place):
    code = tmp_path / "src" / "ufogen"
    released = (code if place == "package" else tmp_path) / "models" / api.RELEASED
    code.mkdir(parents=True)
    monkeypatch.setattr(api, "__file__", str(code / "inference" / "api.py"))
    with pytest.raises(UserError, match="no released model: name the folder"):
        UFOGen.from_pretrained()

    trained = UFOGen.from_pretrained(plain.folder).pipeline
    monkeypatch.setattr(models, "load_text_encoder", lambda *_: (trained.text_encoder, trained.tokenizer))
    for part in ("unet", "scheduler"):
        getattr(trained, part).save_pretrained(released / part)
    trained.vae.save_pretrained(released.parent / api.RELEASED_BASE / "vae")
    found = UFOGen.from_pretrained()
    assert found.folder == released
    assert bytes_of(found(PROMPT, seed=3)) == bytes_of(plain(PROMPT, seed=3))

    trained.unet.half().save_pretrained(released / "unet")
    found = UFOGen.from_pretrained()
    assert {part.dtype for part in (found.pipeline.unet, found.pipeline.vae)} == {torch.float32}
    difference = np.subtract(found(PROMPT, seed=3)[0], plain(PROMPT, seed=3)[0], dtype=int)
    assert np.abs(difference).mean() < 0.5


def test_hash_tells_models_apart(plain, tmp_path):
    other = UFOGen.from_pretrained(export(tmp_path / "same", "v_prediction"))
    path = tmp_path / "same/unet/diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    assert other.sha256 == plain.sha256 == hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    path.write_bytes(content)
    assert UFOGen.from_pretrained(tmp_path / "same").sha256 != plain.sha256


def test_description(plain):
    description = plain.describe()
    assert description["image_size"] == [SIDE, SIDE] and description["prediction_type"] == "v_prediction"
    assert description["timesteps"] == {1: [999], 2: [999, 499], 4: [999, 749, 499, 249]}
    assert description["parameters"]["unet"] == len(tiny.flat(tiny.unet()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "toaster"}, "device toaster cannot be used"),
        ({"device": "cuda:99"}, "device cuda:99 cannot be used"),
        ({"dtype": "int8"}, "dtype int8 is unknown; allowed: auto, float32, float16, bfloat16"),
        ({"dtype": torch.float64}, "dtype float64 is unknown"),
    ],
)
def test_impossible_device_or_dtype_is_a_user_error(plain, settings, message):
    with pytest.raises(UserError, match=message):
        UFOGen.from_pretrained(plain.folder, **settings)


def test_half_precision_draws_the_same_noise(plain, source):
    """A seed's picture stays what it is, to within bfloat16's three digits."""
    half = UFOGen.from_pretrained(plain.folder, device="cpu", dtype=torch.bfloat16)
    for call in (lambda m: m(PROMPT, seed=3), lambda m: m.edit(source, PROMPT, 0.7, seed=3)):
        found, expected = (np.asarray(call(m)[0], int) for m in (half, plain))
        assert 0 < np.abs(found - expected).max() and np.abs(found - expected).mean() < 3


def test_importing_the_package_is_light():
    code = "import sys, ufogen, ufogen.app.cli; assert not {'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Toaster'"):
        import ufogen

        _ = ufogen.Toaster


@pytest.mark.parametrize(("instructions", "found"), [({}, "float32"), ({"avx512_bf16": True}, "bfloat16")])
def test_auto_is_the_devices_precision_and_float32_the_default(plain, instructions, found, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert UFOGen.from_pretrained(plain.folder, "cpu", "auto").describe()["dtype"] == found
    assert UFOGen.from_pretrained(plain.folder, "cpu").describe()["dtype"] == "float32"
