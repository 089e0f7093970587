"""What this repository adds to the paper's objective, each axis against its definition: the entry of pure noise, the law of s,
relativistic pairs, heads at every level, statistics over items."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from tests import tiny
from tests.settings import make_objective
from ufogen.base.models import SCHEDULE
from ufogen.base.text import encode_text
from ufogen.config import check_timesteps
from ufogen.diffusion import losses
from ufogen.diffusion.networks import Deviation, Discriminator, Generator, make_discriminator, trainable
from ufogen.diffusion.objective import DiffusionGAN
from ufogen.diffusion.sampling import sample_generator, step_timesteps
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.inference.export import export_pipeline, ufogen_scheduler
from ufogen.randomness import Draws, torch_generator

ENTRY, N = 699, 64


def drawn(n: int = N, entry: int = ENTRY, **objective):
    schedule = tiny.schedule().until(entry)
    gan = DiffusionGAN(schedule, make_objective(timesteps="uniform", entry_timestep=entry, **objective))
    caption = {"prompt_embeds": tiny.prompt_embeds(n)}
    return gan, gan.draw(tiny.latents(n), caption, Draws(torch_generator("cpu", 0, "axes")))


# the entry


def test_schedule_ends_at_the_entry_and_is_the_same_up_to_it():
    whole, ended = tiny.schedule(), tiny.schedule().until(ENTRY)
    t = torch.tensor([-1, 0, 400, ENTRY])
    assert ended.num_timesteps == ENTRY + 1
    assert torch.equal(whole.alpha_bar(t), ended.alpha_bar(t))
    assert whole.until(0) is whole
    with pytest.raises(ValueError, match="must lie in -1 ... 699"):
        ended.alpha_bar(torch.tensor([ENTRY + 1]))


def test_pure_noise_enters_at_the_entry_alone_and_has_nothing_to_reconstruct():
    gan, items = drawn(entry_share=0.5, entry_noise="pure")
    assert items.t.max() == ENTRY and torch.equal(items.pure, items.t == ENTRY)
    assert 0.3 < items.pure.float().mean() < 0.7
    same_noise = drawn(entry_share=0.5, entry_noise="diffused")[1]
    kept = same_noise.x_t - gan.schedule.alpha_bar(items.t, like=items.x_0).sqrt() * items.x_0
    noise = kept / (1 - gan.schedule.alpha_bar(items.t, like=items.x_0)).sqrt()
    torch.testing.assert_close(items.x_t[items.pure], noise[items.pure])
    assert torch.equal(items.x_t[~items.pure], same_noise.x_t[~items.pure])

    prediction = torch.zeros_like(items.x_0).requires_grad_()
    flat = lambda x, s, **_: torch.zeros(len(x), 1, 1, 1)  # noqa: E731
    gan.generator_loss(flat, items, prediction, prediction)[0].backward()
    pulled = prediction.grad.flatten(1).abs().sum(dim=1) > 0
    assert torch.equal(pulled, ~items.pure)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("entry", [0, ENTRY, 849, 500])
def test_stock_scheduler_with_its_schedule_cut_samples_as_we_do(steps, entry):
    schedule = tiny.schedule().until(entry)
    generator = Generator(tiny.unet(1), schedule, "epsilon")
    scheduler = ufogen_scheduler(DDIMScheduler(**SCHEDULE).config, entry)
    assert scheduler.config.num_train_timesteps == (entry or 999) + 1
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double(), schedule.alpha_bar(torch.arange(schedule.num_timesteps)), rtol=1e-4, atol=1e-7
    )
    torch.testing.assert_close(
        Schedule.from_scheduler(scheduler).alpha_bar(torch.arange(schedule.num_timesteps)),
        schedule.alpha_bar(torch.arange(schedule.num_timesteps)),
    )
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == step_timesteps(steps, schedule.num_timesteps)
    noise, prompt_embeds, rng = tiny.latents(2), tiny.prompt_embeds(2), torch.Generator().manual_seed(1)
    x_t = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = generator.unet(x_t, t, encoder_hidden_states=prompt_embeds).sample
            x_t = scheduler.step(output, t, x_t, generator=rng).prev_sample
    found = sample_generator(generator, noise, prompt_embeds, schedule, steps, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, x_t, rtol=1e-4, atol=1e-4 * x_t.abs().max().item())


def test_a_schedule_given_as_betas_is_cut_too():
    config = dict(DDIMScheduler(**SCHEDULE | {"beta_schedule": "squaredcos_cap_v2"}).config)
    whole, cut = ufogen_scheduler(config), ufogen_scheduler(config, ENTRY)
    torch.testing.assert_close(cut.alphas_cumprod, whole.alphas_cumprod[: ENTRY + 1])


def test_exported_folder_enters_there_in_stock_diffusers(tmp_path):
    base, trained = tiny.pipeline(), tiny.unet(seed=9)
    export_pipeline(base, trained, tmp_path, ENTRY)
    stock = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    noise, prompts, schedule = tiny.latents(2), ["red head", "blue glasses"], tiny.schedule().until(ENTRY)
    arguments = {"num_inference_steps": 2, "guidance_scale": 0, "output_type": "latent"}
    found = stock(prompts, latents=noise, generator=torch.Generator().manual_seed(1), **arguments).images
    ours = Generator(trained, schedule, "epsilon")
    prompt_embeds = encode_text(prompts, base.text_encoder, base.tokenizer)
    expected = sample_generator(ours, noise, prompt_embeds, schedule, 2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


# the law of s


def test_uniform_law_of_s_covers_its_range():
    items = drawn(4000, s_law="uniform", s_low=10, s_high=19)[1]
    assert torch.bincount(items.s).nonzero().flatten().tolist() == list(range(10, 20))
    assert torch.bincount(items.s)[10:].min() > 300


def test_lognormal_law_of_s_has_its_mean_and_deviation():
    gan, items = drawn(4000, entry=0, s_law="lognormal", s_log_sigma_mean=-1.0, s_log_sigma_std=0.5)
    log_sigma = -0.5 * gan.schedule.snr(items.s).log()
    assert log_sigma.mean().item() == pytest.approx(-1, abs=0.04)
    assert log_sigma.std().item() == pytest.approx(0.5, abs=0.03)


def test_nearest_timestep_is_itself_and_ends_are_not_left():
    schedule = tiny.schedule()
    t = torch.tensor([0, 1, 500, 998, 999])
    log_sigma = -0.5 * schedule.snr(t).log()
    assert torch.equal(schedule.nearest(log_sigma), t)
    assert schedule.nearest(torch.tensor([-99.0, 99.0])).tolist() == [0, 999]


def test_what_d_sees_has_the_noise_of_its_own_s():
    gan, items = drawn(2000, s_law="uniform", s_low=300, s_high=300)
    x_s_fake = gan.generate(lambda x_t, t, **_: torch.zeros_like(x_t), items)[1]
    expected = float(1 - gan.schedule.alpha_bar(torch.tensor([300]))) ** 0.5
    assert x_s_fake.std().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"parameterization": "posterior"}, "objective.parameterization is 'posterior'; allowed: forward with s_law uniform"),
        ({"coupling": "chained"}, "objective.coupling is 'chained'; allowed: independent with s_law uniform"),
        ({"reconstruction": "x_s"}, "objective.reconstruction is 'x_s'; allowed: x_0, none with s_law uniform"),
        ({"s_low": 300}, "objective.s_high is 249; allowed: a whole number, 300 or greater"),
    ],
)
def test_law_of_s_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_objective(s_law="uniform", **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"entry_timestep": 1000}, "objective.entry_timestep is 1000; allowed: 0 ... 999"),
        ({"entry_timestep": 500, "minimum_timestep": 600}, "objective.minimum_timestep is 600; allowed: 0 ... 500"),
        ({"s_law": "uniform", "s_high": 1000}, "objective.s_high is 1000; allowed: 0 ... 999"),
    ],
)
def test_timesteps_that_are_not_there_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_timesteps(make_objective(**changes), 1000)


# relativistic pairs


def test_relativistic_losses_are_those_of_the_difference_in_pairs():
    real, fake = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.5], [3.0]])
    expected = (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(5.0))) / 2
    assert losses.discriminator_loss(real, fake, "relativistic").item() == pytest.approx(expected)
    assert losses.generator_loss(fake, "relativistic", real).item() == pytest.approx(
        (math.log1p(math.exp(0.5)) + math.log1p(math.exp(-5.0))) / 2
    )
    assert losses.discriminator_loss(real, real, "relativistic").item() == pytest.approx(losses.EQUILIBRIUM["relativistic"])


def test_generator_is_paired_with_the_real_item_of_its_caption_and_s():
    gan, items = drawn(4, adversarial="relativistic", reconstruction="none")
    seen = []

    def discriminator(x_s, s, x_t, prompt_embeds):
        seen.append((x_s, s, prompt_embeds))
        return x_s.mean(dim=(1, 2, 3), keepdim=True)

    fake = torch.randn_like(items.x_0).requires_grad_()
    loss = gan.generator_loss(discriminator, items, fake, fake)[0]
    (x, s, caption), (real, s_real, caption_real) = seen
    assert torch.equal(x, fake) and torch.equal(real, items.x_s)
    assert torch.equal(s, s_real) and torch.equal(caption, caption_real)
    difference = fake.mean(dim=(1, 2, 3)) - items.x_s.mean(dim=(1, 2, 3))
    assert loss.item() == pytest.approx(torch.nn.functional.softplus(-difference).mean().item())


# heads


def test_heads_at_every_level_start_at_chance_and_all_learn():
    network = Discriminator(tiny.unet(), heads="levels")
    blocks = 2 * len(tiny.unet().config.block_out_channels) + 1
    x, t, prompt_embeds = tiny.latents(2), torch.full((2,), 100), tiny.prompt_embeds(2)
    logits = network(x, t, prompt_embeds)
    assert logits.shape == (2, blocks + 1, *x.shape[2:]) and not logits.any()
    logits.mean().backward()
    assert len(network.unet.further_heads) == blocks
    for head in network.unet.further_heads.values():
        assert head[-1].weight.grad.abs().sum() > 0


def test_frozen_discriminator_trains_its_heads_alone_and_still_hands_gradients_on():
    network = make_discriminator(tiny.unet(), make_objective(discriminator_heads="levels", discriminator_trained="heads"))
    new = {id(parameter) for part in network.new_parts() for parameter in part.parameters()}
    assert {id(parameter) for parameter in trainable(network)} == new
    for parameter in trainable(network):
        torch.nn.init.normal_(parameter)
    x = tiny.latents(2).requires_grad_()
    network(x, torch.full((2,), 100), tiny.prompt_embeds(2)).mean().backward()
    assert x.grad.abs().sum() > 0


def test_deviation_is_that_of_each_group():
    hidden = torch.randn(8, 3, 2, 2)
    seen = Deviation(4)(hidden)
    assert seen.shape == (8, 4, 2, 2) and torch.equal(seen[:, :3], hidden)
    for group in range(2):
        part = hidden[4 * group : 4 * group + 4]
        expected = part.std(dim=0, correction=0).mean()
        torch.testing.assert_close(seen[4 * group : 4 * group + 4, 3], expected.expand(4, 2, 2))


def test_statistics_tell_equal_items_from_different_ones():
    torch.manual_seed(0)
    network = make_discriminator(tiny.unet(), make_objective(discriminator_heads="both", statistics_group=2))
    for part in network.new_parts():
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter)
    x, t, prompt_embeds = tiny.latents(2), torch.full((2,), 100), tiny.prompt_embeds(1).expand(2, -1, -1)
    beside_another = network(x, t, prompt_embeds)[0]
    beside_itself = network(x[:1].expand_as(x), t, prompt_embeds)[0]
    assert (beside_another - beside_itself).abs().min() > 0
