"""A tiny random SDXL goes through the whole chain, and each step is compared with stock diffusers."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tests import tiny
from tests.base import spoiled
from tests.base.spoiled import change, linked_copy
from tests.original import save_original
from tests.settings import PLAIN, configured, make_base, make_data, make_objective
from tests.shard_files import Pair, write_shard
from ufogen.base.architectures import ARCHITECTURES
from ufogen.base.checkpoints import load_checkpoint
from ufogen.base.configuration import NETWORKS
from ufogen.base.loading import load_base
from ufogen.base.text import Conditioning, encode_nothing, encode_prompts, text_encoders
from ufogen.data.encoded import Encoded
from ufogen.data.encoder import Decoded, Encoder
from ufogen.data.pairs import Pairs
from ufogen.data.training_data import open_training_data
from ufogen.diffusion.networks import Discriminator, Generator
from ufogen.diffusion.sampling import sample_base, sample_generator
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.evaluation.sampler import for_sampling
from ufogen.inference.api import UFOGen
from ufogen.inference.export import refuse_sdxl
from ufogen.inference.modelcard import model_card
from ufogen.pipelines.main import encode, export, initialize, train
from ufogen.planning.plan import make_plan

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
PROMPTS = ["a red noun", "", "a noun with more words than there are tokens " * 9]
refused = partial(spoiled.refused, source="sdxl")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    made = tiny.sdxl()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def published(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    tiny.save_as_published(pipeline, folder / "sdxl")
    tiny.save_as_published(tiny.stable_diffusion("sd15"), folder / "sd15")
    return folder


@pytest.fixture
def copy(published, tmp_path) -> Path:
    return linked_copy(published / "sdxl", tmp_path / "copy")


def asked(seed: int, n: int = 2) -> Conditioning:
    return Conditioning(tiny.normal(n, 77, 2048, seed=seed), tiny.normal(n, 1280, seed=seed + 1))


def test_architecture_has_the_published_numbers_of_parameters():
    facts = ARCHITECTURES["sdxl"]
    with torch.device("meta"):
        second = CLIPTextModelWithProjection(CLIPTextConfig(**facts["text_encoder_2"]))
        parts = UNet2DConditionModel(**facts["unet"]), AutoencoderKL(**facts["vae"]), second
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [2_567_463_684, 83_653_863, 694_659_840]


# what the U-Net is told


def test_conditioning_is_the_stock_pipelines(pipeline):
    found = encode_prompts(PROMPTS, text_encoders(pipeline))
    prompt_embeds, negative_prompt_embedss, pooled_prompt_embeds, negative_pooled_prompt_embeds = pipeline.encode_prompt(
        PROMPTS, device="cpu", do_classifier_free_guidance=True
    )
    assert found.prompt_embeds.shape == (3, 77, 2048) and found.pooled_prompt_embeds.shape == (3, 1280)
    assert torch.equal(found.prompt_embeds, prompt_embeds) and torch.equal(found.pooled_prompt_embeds, pooled_prompt_embeds)
    assert not torch.equal(pooled_prompt_embeds[0], pooled_prompt_embeds[1])
    nothing = encode_nothing(pipeline)
    assert torch.equal(nothing.prompt_embeds, negative_prompt_embedss[:1]) and torch.equal(
        nothing.pooled_prompt_embeds, negative_pooled_prompt_embeds[:1]
    )
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    nothing = encode_nothing(pipeline)
    pipeline.register_to_config(force_zeros_for_empty_prompt=True)
    assert (
        torch.equal(nothing.prompt_embeds, encode_prompts([""], text_encoders(pipeline)).prompt_embeds)
        and nothing.pooled_prompt_embeds.any()
    )


def test_untrained_generator_is_one_call_of_the_stock_unet(pipeline):
    x_t, text, schedule = tiny.normal(2, 4, 4, 4), asked(1), Schedule.from_scheduler(pipeline.scheduler)
    time_ids = pipeline._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, 1280).expand(2, -1)
    added = {"text_embeds": text.pooled_prompt_embeds, "time_ids": time_ids}
    with torch.no_grad():
        noise = pipeline.unet(x_t, 999, encoder_hidden_states=text.prompt_embeds, added_cond_kwargs=added).sample
        generator = Generator(pipeline.unet, schedule, "epsilon")
        found = generator(x_t, torch.full((2,), 999), *vars(text).values())
        other = generator(x_t, torch.full((2,), 999), text.prompt_embeds, text.pooled_prompt_embeds.roll(1, 0))
    abar = schedule.alpha_bar(torch.tensor([999])).item()
    torch.testing.assert_close(found, (x_t - (1 - abar) ** 0.5 * noise) / abar**0.5)
    assert not torch.equal(found, other)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_base_is_the_stock_pipeline(pipeline, guidance):
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True)
    stock = StableDiffusionXLPipeline(**pipeline.components | {"scheduler": scheduler}, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    noise, text, nothing = (
        tiny.normal(2, 4, 4, 4),
        encode_prompts(PROMPTS[:2], text_encoders(pipeline)),
        encode_nothing(pipeline),
    )
    expected = stock(PROMPTS[:2], num_inference_steps=3, guidance_scale=guidance, latents=noise, output_type="latent").images
    found = sample_base(
        pipeline.unet, noise, text.prompt_embeds, nothing.prompt_embeds[0], pipeline.scheduler.config, 3, guidance,
        pooled_prompt_embeds=text.pooled_prompt_embeds, negative_pooled_prompt_embeds=nothing.pooled_prompt_embeds,
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_discriminator_hears_the_pooled_state_and_r1_reaches_it(pipeline):
    torch.manual_seed(0)
    network = Discriminator(UNet2DConditionModel.from_config(pipeline.unet.config))
    torch.nn.init.normal_(network.unet.conv_out.weight)
    x, text = tiny.normal(2, 4, 4, 4).requires_grad_(), asked(5)
    logits = network(x, torch.tensor([0, 499]), text.prompt_embeds, None, text.pooled_prompt_embeds)
    other = network(x, torch.tensor([0, 499]), text.prompt_embeds, None, text.pooled_prompt_embeds.roll(1, 0))
    assert logits.shape == (2, 1, 4, 4) and not torch.equal(logits, other)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert network.unet.add_embedding.linear_1.weight.grad.abs().max() > 0


# the whole chain


def test_shards_to_a_one_step_model_in_stock_diffusers(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    for s in range(2):
        pairs = [Pair(100 * s + i, (40, 36 + i), ("a noun", "a red noun", "glasses")[i]) for i in range(3)]
        write_shard(Path(f"shards/{s:05d}.tar"), pairs)
    c = configured(
        device="cpu", threads=1, base=make_base("sdxl", str(published / "sdxl")),
        data=make_data(source="webdataset", path="shards", workers=1, encode_batch_size=3),
        objective=make_objective(mismatched_share=0.5, r1_weight=0.1, r1_interval=1),
        trainer=tiny.trainer(updates=2, batch_size=2, keep="last"),
    )  # fmt: skip
    initialize.main(c)
    encode.main(c)
    data = Encoded("artifacts/encoded", 6, seed=0)
    assert (
        data.card["pooled_prompt_embeds"] is True
        and data(0).pooled_prompt_embeds.shape == (6, 1280)
        and data(0).prompt_embeds.shape == (6, 77, 2048)
    )
    base = load_base("artifacts/base")
    expected = encode_prompts(["a noun", "a red noun", "glasses"], text_encoders(base))
    torch.testing.assert_close(
        torch.from_numpy(np.load("artifacts/encoded/pooled_prompt_embeds-00001.npy")), expected.pooled_prompt_embeds.half()
    )
    c.data.cache = False
    streamed = open_training_data(c, Accelerator(cpu=True), base)(0)
    c.data.cache = True
    cached = open_training_data(c, Accelerator(cpu=True), base)(0)
    for name in ("latents", "prompt_embeds", "pooled_prompt_embeds"):
        torch.testing.assert_close(getattr(streamed, name), getattr(cached, name), rtol=2e-3, atol=2e-3)

    train.main(c)
    export.main(c)
    stock = StableDiffusionXLPipeline.from_pretrained("artifacts/ufogen", local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    assert not torch.equal(tiny.flat(stock.unet), tiny.flat(base.unet))
    noise, settings = tiny.normal(2, 4, 4, 4), {"num_inference_steps": 1, "guidance_scale": 0}
    found = stock(PROMPTS[:2], latents=noise, output_type="latent", **settings).images
    schedule, text = Schedule.from_scheduler(base.scheduler), encode_prompts(PROMPTS[:2], text_encoders(base))
    expected = sample_generator(
        Generator(stock.unet, schedule, "epsilon"),
        noise,
        text.prompt_embeds,
        schedule,
        pooled_prompt_embeds=text.pooled_prompt_embeds,
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())

    model = UFOGen.from_pretrained("artifacts/ufogen", device="cpu")
    for steps in (1, 2):
        settings["num_inference_steps"] = steps
        theirs = stock(PROMPTS[0], generator=torch.Generator().manual_seed(3), **settings).images[0]
        assert np.array_equal(model(PROMPTS[0], seed=3, steps=steps)[0], theirs)
    assert np.array_equal(model.interpolate(PROMPTS[:2], 3, frames=3)[0], model(PROMPTS[0], seed=3)[0])
    assert set(model.describe()["parameters"]) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    card = model_card("one", Path("artifacts/ufogen"), None, model.describe(), fp16=False)
    assert "import StableDiffusionXLPipeline\n" in card and "StableDiffusionPipeline" not in card
    for call in (model.edit, model.control):
        with pytest.raises(UserError, match="with an SDXL base is not supported; allowed: a StableDiffusionPipeline"):
            call(theirs, "a noun")


def test_nouns_are_encoded_with_pooled_states(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    pairs = Pairs(images, ["a noun", "red", ""], np.zeros((3, 5)), np.zeros((3, 5)))
    monkeypatch.setattr(encode, "read_pairs", lambda folder: pairs)
    pipeline.save_pretrained("artifacts/base")
    encode.main(configured(device="cpu", threads=1))
    data, text = Encoded("artifacts/encoded", 3, seed=0), encode_prompts(pairs.captions, text_encoders(pipeline))
    assert torch.equal(data(0).pooled_prompt_embeds, text.pooled_prompt_embeds.half()) and torch.equal(
        data(0).prompt_embeds, text.prompt_embeds.half()
    )
    Path("artifacts/encoded/pooled_prompt_embeds.npy").unlink()
    with pytest.raises(UserError, match=r"pooled_prompt_embeds\.npy"):
        Encoded("artifacts/encoded", 3, seed=0)


def test_autoencoder_that_overflows_stays_in_single_precision():
    base = for_sampling(tiny.sdxl(), torch.device("cpu"), torch.float16)
    assert base.vae.dtype == torch.float32 and base.unet.dtype == base.text_encoder_2.dtype == torch.float16
    base.vae.register_to_config(force_upcast=False)
    assert for_sampling(base, torch.device("cpu"), torch.float16).vae.dtype == torch.float16


def test_encoder_keeps_it_so_in_half_precision(pipeline):
    pair = Decoded(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), "a red noun", (0, 0))
    single, half = (
        Encoder(pipeline, make_data(encode_precision=precision), 0, "cpu").encode([pair]) for precision in ("no", "bf16")
    )
    assert torch.equal(single.latents, half.latents) and not torch.equal(single.prompt_embeds, half.prompt_embeds)


# one file, and what is refused


def test_single_file_gives_the_checkpoint_as_it_is(pipeline, published, tmp_path):
    file = tmp_path / "one.safetensors"
    save_original(pipeline, file)
    found = load_checkpoint(make_base("sdxl", str(file), config=str(published / "sdxl")))
    for part in NETWORKS:
        expected = getattr(pipeline, part).state_dict()
        weights = getattr(found, part).state_dict()
        assert weights.keys() == expected.keys() and all(torch.equal(weights[key], expected[key]) for key in expected)
    assert found.vae.config.scaling_factor == 0.13025 and found.vae.config.force_upcast
    refused("is an SDXL file: it has two text encoders", source="sd15", path=str(file), config=str(published / "sd15"))
    weights = load_file(file)
    save_file({key: value for key, value in weights.items() if "embedders.1" not in key}, file)
    refused("lacks text_encoder_2: a whole checkpoint", path=str(file), config=str(published / "sdxl"))
    save_original(tiny.stable_diffusion("sd15"), file)
    refused("a file of Stable Diffusion 1 or 2", path=str(file), config=str(published / "sdxl"))


def test_another_family_is_refused(published):
    refused("second text encoder, as SDXL has; Stable Diffusion 1 is needed", source="sd15", path=str(published / "sdxl"))
    refused("is a StableDiffusionPipeline; a StableDiffusionXLPipeline is needed", path=str(published / "sd15"))
    assert isinstance(load_checkpoint(make_base("diffusers", str(published / "sdxl"))), StableDiffusionXLPipeline)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"])
def test_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    refused(f"lacks {part}: a whole StableDiffusionXLPipeline", path=str(copy))
    with pytest.raises(UserError, match=f"lacks {part}: a whole StableDiffusionXLPipeline"):
        load_base(copy)


def test_missing_weights_and_vocabulary_are_named(copy):
    (copy / "text_encoder_2/model.safetensors").unlink()
    refused("lacks the weights of its text_encoder_2", path=str(copy))
    (copy / "tokenizer_2/vocab.json").unlink()
    refused("lacks the tokenizer_2's vocabulary", path=str(copy))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet", {"cross_attention_dim": 1280}, "prompt_embeds of width 1280, its text encoder's are 2048"),
        ("unet", {"addition_embed_type": None}, "addition_embed_type None; SDXL's, text_time, is needed"),
        ("unet", {"projection_class_embeddings_input_dim": 2560}, "pooled states of width 1024, .* are 1280"),
        ("unet", {"class_embed_type": "timestep"}, "U-Net with class_embed_type"),
        ("unet", {"in_channels": 9}, "in_channels 9, its VAE has 4"),
        ("vae", {"block_out_channels": [32, 32, 32]}, "shrinks images 4 times; SDXL's, 8 times"),
    ],
)
def test_parts_that_do_not_fit_are_refused(copy, file, changes, message):
    change(copy / file / "config.json", **changes)
    refused(message, path=str(copy))


def test_applications_refuse_it(pipeline):
    with pytest.raises(UserError, match="the ablation study with an SDXL base is not supported"):
        refuse_sdxl(pipeline, "the ablation study")
    refuse_sdxl(tiny.pipeline(), "the ablation study")


def test_plan_counts_what_a_real_update_has(published):
    """Of the tiny checkpoint, as of a real one: the U-Net with its embedding of sizes, a head for D, and both encoders."""
    base = make_base("diffusers", str(published / "sdxl"))
    report, made = make_plan(configured(base=base, objective=PLAIN, trainer=tiny.trainer())), load_base(published / "sdxl")
    found, count = report["parameters"], {name: tiny.flat(getattr(made, name)).numel() for name in NETWORKS}
    assert found["generator"] == count["unet"]
    assert [found[name] for name in ("vae", "text_encoder", "text_encoder_2")] == [
        count[name] for name in ("vae", "text_encoder", "text_encoder_2")
    ]
    assert report["encoder_bytes"] == 4 * (sum(count.values()) - count["unet"]) and report["tokens"] == 77
