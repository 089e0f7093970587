"""Stable Diffusion checkpoints become the base from either layout, train, and come out as a one-step pipeline."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests import tiny
from tests.base import spoiled
from tests.base.spoiled import change, linked_copy
from tests.original import save_original
from tests.settings import configured, make_base, make_objective
from ufogen.base.architectures import ARCHITECTURES
from ufogen.base.autoencoder import encode_images
from ufogen.base.checkpoints import load_checkpoint
from ufogen.base.loading import load_base
from ufogen.base.text import encode_text
from ufogen.diffusion.batch import EncodedBatch
from ufogen.diffusion.networks import Generator, make_networks
from ufogen.diffusion.sampling import sample_generator
from ufogen.diffusion.schedule import Schedule
from ufogen.pipelines.main import export, initialize
from ufogen.randomness import Draws
from ufogen.training.trainer import AdversarialTrainer

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
PROMPTS = ["a red noun", "", "a noun with more words than there are tokens " * 9]
WEIGHTS = ("unet", "vae", "text_encoder")
refused = partial(spoiled.refused, source="sd15")


@pytest.fixture(scope="module", params=["sd15", "sd21"])
def checkpoint(request, tmp_path_factory) -> tuple[str, StableDiffusionPipeline, Path, Path]:
    """Source, pipeline, its diffusers folder and its single file."""
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = tiny.stable_diffusion(request.param)
    tiny.save_as_published(pipeline, folder / "diffusers")
    save_original(pipeline, folder / "one.safetensors")
    return request.param, pipeline, folder / "diffusers", folder / "one.safetensors"


@pytest.fixture(scope="module")
def sd15(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "sd15"
    tiny.save_as_published(tiny.stable_diffusion("sd15"), folder)
    return folder


@pytest.fixture
def copy(sd15, tmp_path) -> Path:
    return linked_copy(sd15, tmp_path / "copy")


# architectures


@pytest.mark.parametrize(
    ("family", "unet", "text_encoder"), [("sd15", 859_520_964, 123_060_480), ("sd21", 865_910_724, 340_387_840)]
)
def test_architectures_have_the_published_numbers_of_parameters(family, unet, text_encoder):
    facts = ARCHITECTURES[family]
    with torch.device("meta"):
        parts = (
            UNet2DConditionModel(**facts["unet"]),
            AutoencoderKL(**facts["vae"]),
            CLIPTextModel(CLIPTextConfig(**facts["text_encoder"])),
        )
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [unet, 83_653_863, text_encoder]


# the way through


def test_both_layouts_give_the_checkpoint_as_it_is(checkpoint):
    source, expected, folder, file = checkpoint
    for base in (make_base(source, str(folder)), make_base(source, str(file), config=str(folder))):
        found = load_checkpoint(base)
        for part in WEIGHTS:
            assert torch.equal(tiny.flat(getattr(found, part)), tiny.flat(getattr(expected, part)))
        schedules = (Schedule.from_scheduler(p.scheduler).alpha_bar(torch.arange(1000)) for p in (found, expected))
        assert torch.equal(*schedules)
        assert found.scheduler.config.prediction_type == {"sd15": "epsilon", "sd21": "v_prediction"}[source]
        assert found.vae.config.scaling_factor == 0.18215
        prompt_embeds = encode_text(PROMPTS, found.text_encoder, found.tokenizer)
        assert prompt_embeds.shape == (3, 77, expected.text_encoder.config.hidden_size)
        torch.testing.assert_close(prompt_embeds, found.encode_prompt(PROMPTS, "cpu", 1, False)[0])
        torch.testing.assert_close(prompt_embeds, encode_text(PROMPTS, expected.text_encoder, expected.tokenizer))


def test_checkpoint_trains_and_samples_in_stock_diffusers(checkpoint, tmp_path, monkeypatch):
    source, _, _, file = checkpoint
    c = configured(base=make_base(source, str(file), config=str(file.parent / "diffusers")))
    monkeypatch.chdir(tmp_path)
    initialize.main(c)
    base = load_base(tmp_path / "artifacts/base")
    schedule, kind = Schedule.from_scheduler(base.scheduler), base.scheduler.config.prediction_type
    torch.manual_seed(0)
    generator, discriminator = make_networks(base.unet, schedule, kind, make_objective())
    task = AdversarialTrainer(generator, discriminator, schedule, make_objective(), tiny.trainer())
    task.prepare(Accelerator(cpu=True))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    prompt_embeds = encode_text(PROMPTS[:2], base.text_encoder, base.tokenizer)
    scalars = task.update(
        EncodedBatch(encode_images(images, base.vae), prompt_embeds), 0, Draws(torch.Generator().manual_seed(0))
    )
    assert all(torch.isfinite(value) for value in scalars.values())
    generator.unet.save_pretrained("artifacts/train/unet")
    export.main(c)

    stock = StableDiffusionPipeline.from_pretrained("artifacts/ufogen", local_files_only=True, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    noise = tiny.normal(2, 4, 4, 4)
    settings = {"num_inference_steps": 1, "guidance_scale": 0, "latents": noise, "output_type": "latent"}
    found = stock(PROMPTS[:2], **settings).images
    assert not torch.equal(tiny.flat(stock.unet), tiny.flat(base.unet))
    expected = sample_generator(Generator(stock.unet, schedule, kind), noise, prompt_embeds, schedule)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_hub_id_is_read_from_the_cache(sd15, tmp_path, monkeypatch):
    home = tmp_path / "hub/models--some--checkpoint"
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text("0" * 40)
    shutil.copytree(sd15, home / "snapshots" / ("0" * 40), copy_function=os.link)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    found = load_checkpoint(make_base("sd15", "some/checkpoint"))
    assert torch.equal(tiny.flat(found.unet), tiny.flat(tiny.stable_diffusion("sd15").unet))
    refused("base.path other/checkpoint is not in the hub cache and cannot be fetched", path="other/checkpoint")


def test_pickled_weights_need_permission(copy):
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")):
        (file,) = (copy / part).glob("*.safetensors")
        weights = load_file(file)
        file.unlink()
        torch.save(weights, copy / part / f"{stem}.bin")
    refused("only pickled weights in unet.*base.allow_pickle=true", path=str(copy))
    found = load_checkpoint(make_base("sd15", str(copy), allow_pickle=True))
    assert torch.equal(tiny.flat(found.text_encoder), tiny.flat(tiny.stable_diffusion("sd15").text_encoder))


def test_half_precision_weights_become_single(copy):
    for part in WEIGHTS:
        (file,) = (copy / part).glob("*.safetensors")
        weights = {name: value.half() if value.is_floating_point() else value for name, value in load_file(file).items()}
        file.unlink()
        save_file(weights, file, metadata={"format": "pt"})
    found = load_checkpoint(make_base("sd15", str(copy)))
    assert {next(getattr(found, part).parameters()).dtype for part in WEIGHTS} == {torch.float32}


# what is refused, before a weight is read


def test_family_is_told_by_the_width_of_the_states(sd15):
    refused("token states of width 768; Stable Diffusion 2 has 1024", source="sd21", path=str(sd15))


def test_sdxl_is_refused(copy):
    (copy / "text_encoder_2").mkdir()
    refused("second text encoder, as SDXL has; Stable Diffusion 1 is needed", path=str(copy))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    refused(f"lacks {part}: a whole StableDiffusionPipeline", path=str(copy))


def test_missing_weights_and_vocabulary_are_named(copy):
    (copy / "vae/diffusion_pytorch_model.safetensors").unlink()
    refused("lacks the weights of its vae", path=str(copy))
    (copy / "tokenizer/vocab.json").unlink()
    refused("lacks the tokenizer's vocabulary", path=str(copy))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionInpaintPipeline"}, "is a StableDiffusionInpaintPipeline"),
        ("unet/config.json", {"in_channels": 9}, "in_channels 9, its VAE has 4 latent channels"),
        ("vae/config.json", {"latent_channels": 16}, "in_channels 4, its VAE has 16"),
        ("unet/config.json", {"cross_attention_dim": 1024}, "prompt_embeds of width 1024, its text encoder's are 768"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "U-Net with addition_embed_type"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "predicts 'flow'; allowed: epsilon, v_prediction"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_parts_that_do_not_fit_are_refused(copy, file, changes, message):
    change(copy / file, **changes)
    refused(message, path=str(copy))


def test_paths_that_are_nothing_are_refused(tmp_path):
    refused(
        "/no/such/folder does not exist; allowed: a folder, a .safetensors file, or a hub id",
        path="/no/such/folder",
    )
    refused("has no model_index.json", path=str(tmp_path))
    (tmp_path / "model.ckpt").write_bytes(b"")
    refused("is a .ckpt file; allowed: .safetensors", path=str(tmp_path / "model.ckpt"))


def test_single_files_that_do_not_fit_are_refused(sd15, tmp_path):
    file = tmp_path / "one.safetensors"
    entry = "model.diffusion_model.input_blocks.0.0.weight"
    prompt_embeds = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    rest = {"first_stage_model.x": torch.zeros(1), "cond_stage_model.x": torch.zeros(1)}
    base = {"path": str(file), "config": str(sd15)}

    def write(**weights: torch.Tensor) -> None:
        save_file({name: value.contiguous() for name, value in weights.items()}, file)

    file.write_bytes(b"damaged")
    refused("cannot be loaded", **base)
    write(**{entry: torch.zeros(32, 9, 3, 3), prompt_embeds: torch.zeros(32, 768)} | rest)
    refused("U-Net with in_channels 9, its configuration says 4", **base)
    write(**{entry: torch.zeros(32, 4, 3, 3), prompt_embeds: torch.zeros(32, 1024)} | rest)
    refused("cross_attention_dim 1024, its configuration says 768", **base)
    write(**{entry: torch.zeros(32, 4, 3, 3), prompt_embeds: torch.zeros(32, 768)})
    refused("lacks vae, text_encoder: a whole checkpoint", **base)
    write(**{"conditioner.embedders.0.x": torch.zeros(1)})
    refused("is an SDXL file", **base)
    write(**{entry: torch.zeros(32, 4, 3, 3), prompt_embeds: torch.zeros(32, 768)} | rest)
    refused("cannot be loaded|lacks some weights", **base)
    refused("base.config stable-diffusion-v1-5/stable-diffusion-v1-5 is not in the hub cache", path=str(file))
    refused("name the folder of its configuration as base.config", source="diffusers", path=str(file))
