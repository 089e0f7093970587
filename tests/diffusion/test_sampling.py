"""Our samplers against the formula and against stock diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

from tests import tiny
from ufogen.base.loading import load_base
from ufogen.base.models import SCHEDULE
from ufogen.base.text import encode_text
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_base, sample_generator, step_timesteps
from ufogen.errors import UserError
from ufogen.inference.export import export_pipeline, ufogen_scheduler

# diffusers warns about its own defaults and its own use of numpy
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
PROMPTS = ["a noun with red glasses", "the head"]
SOLVERS = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(tiny.unet(), tiny.schedule(), "epsilon").eval()


@pytest.fixture(scope="module")
def base() -> StableDiffusionPipeline:
    pipeline = tiny.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def rng(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_step_is_the_generator_at_the_last_timestep(generator):
    noise, prompt_embeds = tiny.latents(2), tiny.prompt_embeds(2)
    with torch.no_grad():
        expected = generator(noise, torch.full((2,), 999), prompt_embeds)
    assert torch.equal(sample_generator(generator, noise, prompt_embeds, tiny.schedule()), expected)


@pytest.mark.parametrize(("steps", "expected"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249])])
def test_timesteps_are_equally_far_apart_from_the_last_one_down(steps, expected):
    assert step_timesteps(steps) == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 25, 1000])
def test_timesteps_are_those_of_the_stock_scheduler(steps):
    scheduler = ufogen_scheduler(DDIMScheduler(**SCHEDULE).config)
    scheduler.set_timesteps(steps)
    assert step_timesteps(steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_number_of_steps_is_a_user_error(steps):
    with pytest.raises(UserError, match=rf"is {steps}; allowed: 1 ... 1000"):
        step_timesteps(steps)


def test_two_steps_are_predict_renoise_predict(generator):
    noise, prompt_embeds, schedule = tiny.latents(2), tiny.prompt_embeds(2), tiny.schedule()
    with torch.no_grad():
        x_0 = generator(noise, torch.full((2,), 999), prompt_embeds)
        fresh = torch.randn(noise.shape, generator=rng())
        abar = schedule.alpha_bar(torch.tensor([499])).float()
        expected = generator(abar.sqrt() * x_0 + (1 - abar).sqrt() * fresh, torch.full((2,), 499), prompt_embeds)
    found = sample_generator(generator, noise, prompt_embeds, schedule, steps=2, rng=rng())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_stock_scheduler_of_the_export_samples_as_we_do(generator, steps):
    noise, prompt_embeds = tiny.latents(2), tiny.prompt_embeds(2)
    scheduler = ufogen_scheduler(DDIMScheduler(**SCHEDULE).config)
    scheduler.set_timesteps(steps)
    x_t, fresh = noise, rng()
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = generator.unet(scheduler.scale_model_input(x_t, t), t, encoder_hidden_states=prompt_embeds).sample
            x_t = scheduler.step(output, t, x_t, generator=fresh).prev_sample
    found = sample_generator(generator, noise, prompt_embeds, tiny.schedule(), steps, rng())
    assert scheduler.timesteps.tolist() == step_timesteps(steps)
    assert scheduler.init_noise_sigma == 1
    torch.testing.assert_close(found, x_t, rtol=1e-5, atol=1e-5 * x_t.abs().max().item())


@pytest.mark.parametrize("steps", [1, 4])
def test_exported_folder_samples_as_we_do_in_stock_diffusers(base, tmp_path, steps):
    trained = tiny.unet(seed=9)
    export_pipeline(base, trained, tmp_path)
    stock = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    noise = tiny.latents(2)
    found = stock(
        PROMPTS, num_inference_steps=steps, guidance_scale=0, latents=noise, generator=rng(), output_type="latent"
    ).images
    ours = Generator(trained, tiny.schedule(), "epsilon")
    prompt_embeds = encode_text(PROMPTS, base.text_encoder, base.tokenizer)
    expected = sample_generator(ours, noise, prompt_embeds, tiny.schedule(), steps, rng())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_export_leaves_the_base_as_it_is(base, tmp_path):
    before = tiny.flat(base.unet)
    export_pipeline(base, tiny.unet(seed=9), tmp_path)
    assert isinstance(base.scheduler, DDIMScheduler)
    assert torch.equal(tiny.flat(base.unet), before)


def test_saved_base_loads_again(base, tmp_path):
    base.save_pretrained(tmp_path)
    loaded = load_base(tmp_path)
    assert torch.equal(tiny.flat(loaded.unet), tiny.flat(base.unet))
    prompt_embeds = (encode_text(PROMPTS, p.text_encoder, p.tokenizer) for p in (base, loaded))
    assert torch.equal(*prompt_embeds)


def test_folder_without_a_pipeline_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no model_index.json"):
        load_base(tmp_path)


def test_pipeline_that_lacks_a_part_is_a_user_error(base, tmp_path):
    base.save_pretrained(tmp_path)
    (tmp_path / "vae").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lacks vae"):
        load_base(tmp_path)


def test_damaged_weights_are_a_user_error(base, tmp_path):
    base.save_pretrained(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_base(tmp_path)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("steps", "guidance"), [(1, 2.0), (4, 2.0), (4, 1.0)])
def test_base_samples_as_the_stock_pipeline_does(base, solver, steps, guidance):
    extra = {"set_alpha_to_one": True} if solver == "ddim" else {}
    scheduler = SOLVERS[solver].from_config(base.scheduler.config, timestep_spacing="trailing", **extra)
    stock = StableDiffusionPipeline(**base.components | {"scheduler": scheduler}, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    noise = tiny.latents(2)
    expected = stock(PROMPTS, num_inference_steps=steps, guidance_scale=guidance, latents=noise, output_type="latent").images
    prompt_embeds, empty = (encode_text(prompts, base.text_encoder, base.tokenizer) for prompts in (PROMPTS, [""]))
    found = sample_base(base.unet, noise, prompt_embeds, empty[0], base.scheduler.config, steps, guidance, solver)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_guidance_changes_the_sample(base):
    prompt_embeds, empty = tiny.prompt_embeds(1), tiny.prompt_embeds(1, seed=3)[0]
    plain, guided = (
        sample_base(base.unet, tiny.latents(1), prompt_embeds, empty, base.scheduler.config, 2, guidance)
        for guidance in (1.0, 3.0)
    )
    assert not torch.allclose(plain, guided)


def test_unknown_solver_is_a_user_error(base):
    with pytest.raises(UserError, match="'euler' is unknown; allowed: ddim, dpm\\+\\+"):
        sample_base(
            base.unet,
            tiny.latents(1),
            tiny.prompt_embeds(1),
            tiny.prompt_embeds(1)[0],
            base.scheduler.config,
            4,
            solver="euler",
        )
