"""Control networks: nothing changes before training, training learns, resumes, and stock diffusers samples the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline, T2IAdapter

from tests import tiny
from tests.settings import configured
from ufogen import config
from ufogen.applications.control import (
    KINDS,
    ControlBatch,
    ControlledUNet,
    ControlTask,
    EncodedWithEdges,
    make_control,
    timesteps,
)
from ufogen.applications.edges import edge_map, to_condition, to_images
from ufogen.diffusion.networks import Generator
from ufogen.diffusion.sampling import sample_base, sample_generator
from ufogen.errors import UserError
from ufogen.inference.export import export_pipeline
from ufogen.randomness import Draws, torch_generator
from ufogen.training.loop import fit, make_accelerator

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning", "ignore:__array__:DeprecationWarning")
FACTOR, SIDE = 2, 2 * tiny.SIZE
RUN = {"updates": 4, "seed": 0, "run": "run", "checkpoint_every": 2, "log_every": 1}


def images(n: int, seed: int = 0) -> np.ndarray:
    """Blocks of 4 x 4 pixels in random colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (n, SIDE // 4, SIDE // 4, 3), np.uint8)
    return blocks.repeat(4, 1).repeat(4, 2)


def condition(n: int, seed: int = 0) -> torch.Tensor:
    return to_condition(edge_map(images(n, seed)))


def control(kind: str, seed: int = 1, trained: bool = False) -> torch.nn.Module:
    """With `trained` every weight that is zero at first is moved, as training would."""
    torch.manual_seed(seed)
    network = make_control(kind, tiny.unet(), FACTOR).eval()
    if trained:
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.3)
    return network


def task(kind: str, seed: int = 1, **changes) -> ControlTask:
    settings = configured(applications={"warmup": 0, "timesteps": "cubic"} | changes).applications
    training = config.ControlTraining(updates=RUN["updates"], learning_rate=3e-3)
    return ControlTask(
        control(kind, seed), tiny.unet(), settings, training, tiny.schedule(), "epsilon", torch.zeros(tiny.TOKENS, tiny.WIDTH)
    )


def batch(step: int) -> ControlBatch:
    encoded = tiny.batch(step)
    return ControlBatch(encoded.latents, encoded.prompt_embeds, edge_map(images(len(encoded.latents), step)))


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_said():
    network = task("controlnet")
    network.prepare(make_accelerator("cpu", "no"))
    before, given = tiny.flat(network.control), batch(0)
    given.latents[0, 0, 0, 0] = float("nan")
    assert "skipped" in network.update(given, 0, Draws(torch_generator("cpu", 0, "test", 0)))
    assert torch.equal(tiny.flat(network.control), before)


def train(task: ControlTask, folder, batches=batch, **changes) -> list[float]:
    losses: list[float] = []
    fit(
        task, batches, make_accelerator("cpu", "no"), folder=folder, on_log=lambda step, means: losses.append(means["loss"]),
        **RUN | changes,
    )  # fmt: skip
    return losses


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_new_controlnet_leaves_the_generators_output_bit_equal(prediction_type):
    unet, x_t, prompt_embeds, t = tiny.unet(), tiny.latents(3), tiny.prompt_embeds(3), torch.tensor([999, 500, 0])
    with torch.no_grad():
        expected = Generator(unet, tiny.schedule(), prediction_type)(x_t, t, prompt_embeds)
        controlled = ControlledUNet(unet, control("controlnet"), condition(3))
        found = Generator(controlled, tiny.schedule(), prediction_type)(x_t, t, prompt_embeds)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_trained_control_steers_in_proportion_to_its_scale(kind):
    unet, network, x_t, prompt_embeds = tiny.unet(), control(kind, trained=True), tiny.latents(2), tiny.prompt_embeds(2)

    def output(scale: float, seed: int = 0) -> torch.Tensor:
        with torch.no_grad():
            return ControlledUNet(unet, network, condition(2, seed), scale)(x_t, torch.tensor([999, 1]), prompt_embeds)[0]

    with torch.no_grad():
        plain = unet(x_t, torch.tensor([999, 1]), encoder_hidden_states=prompt_embeds).sample
    assert torch.equal(output(0.0), plain)
    assert (output(0.5) - plain).norm() < (output(1.0) - plain).norm()
    assert not torch.allclose(output(1.0), output(1.0, seed=5), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_of_a_guided_batch_has_its_own_edges(kind):
    """Guidance doubles the batch; a picture drawn alone is the picture drawn beside others."""
    unet, network, scheduler = tiny.unet(), control(kind, trained=True), tiny.pipeline().scheduler.config
    noise, prompt_embeds, edges = tiny.latents(2), tiny.prompt_embeds(2), condition(2)

    def draw(part: slice) -> torch.Tensor:
        controlled = ControlledUNet(unet, network, edges[part])
        return sample_base(controlled, noise[part], prompt_embeds[part], torch.zeros_like(prompt_embeds[0]), scheduler, 3, 2.0)

    together = draw(slice(0, 2))
    for i in range(2):
        torch.testing.assert_close(draw(slice(i, i + 1))[0], together[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_its_loss_and_leaves_the_denoiser(kind):
    """On one batch with one noise, which it can learn by heart."""
    trained = task(kind)
    trained.training.learning_rate, trained.training.updates = 1e-2, 1000
    before, start = tiny.flat(trained.unet), tiny.flat(trained.control)
    trained.prepare(make_accelerator("cpu", "no"))
    losses = [trained.update(batch(0), step, Draws(torch.Generator().manual_seed(0)))["loss"].item() for step in range(15)]
    assert losses[-1] < 0.95 * losses[0]
    assert torch.equal(tiny.flat(trained.unet), before)
    assert not torch.equal(tiny.flat(trained.control), start)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_is_bit_equal_to_an_uninterrupted_one(kind, tmp_path):
    def stopping(step: int) -> ControlBatch:
        if step == 3:
            raise InterruptedError
        return batch(step)

    whole, stopped, resumed = task(kind), task(kind), task(kind, seed=7)  # other weights, which the checkpoint replaces
    train(whole, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(stopped, tmp_path / "parts", stopping)
    assert len(train(resumed, tmp_path / "parts")) == 2
    assert torch.equal(tiny.flat(resumed.control), tiny.flat(whole.control))


def test_stock_diffusers_samples_the_exported_folder_as_we_do(tmp_path):
    network = control("controlnet", trained=True)
    network.save_pretrained(tmp_path / "control")
    base, unet = tiny.pipeline(), tiny.unet(seed=9)
    export_pipeline(base, unet, tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    stock = StableDiffusionControlNetPipeline(
        **pipeline.components,
        controlnet=ControlNetModel.from_pretrained(tmp_path / "control", local_files_only=True),
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    noise, prompt_embeds, edges = tiny.latents(2, seed=3), tiny.prompt_embeds(2), edge_map(images(2))
    expected = stock(
        prompt_embeds=prompt_embeds, image=to_condition(edges), latents=noise, num_inference_steps=1, guidance_scale=0,
        output_type="latent", height=SIDE, width=SIDE,
    ).images  # fmt: skip
    generator = Generator(ControlledUNet(unet, network, to_condition(edges)), tiny.schedule(), "epsilon")
    found = sample_generator(generator, noise, prompt_embeds, tiny.schedule())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    uncontrolled = sample_generator(Generator(unet, tiny.schedule(), "epsilon"), noise, prompt_embeds, tiny.schedule())
    assert (found - uncontrolled).abs().max() > 0.1
    assert to_images(edges).shape == (2, SIDE, SIDE, 3)


@pytest.mark.parametrize(("factor", "widths"), [(2, (16, 32)), (4, (16, 32, 96)), (8, (16, 32, 96, 256))])
def test_networks_fit_the_autoencoders_factor(factor, widths):
    unet, picture = tiny.unet(), torch.zeros(1, 3, factor * tiny.SIZE, factor * tiny.SIZE)
    network = make_control("controlnet", unet, factor)
    assert tuple(network.config.conditioning_embedding_out_channels) == widths
    assert network.controlnet_cond_embedding(picture).shape[2:] == (tiny.SIZE, tiny.SIZE)
    features = make_control("adapter", unet, factor)(picture)
    assert [tuple(feature.shape[1:]) for feature in features] == [(8, 8, 8), (16, 4, 4)]


def test_impossible_factor_is_a_user_error():
    with pytest.raises(UserError, match="factor is 3; a ControlNet can be made for 2, 4 and 8"):
        make_control("controlnet", tiny.unet(), 3)


def test_kinds_are_the_classes_of_diffusers():
    assert {kind: type(control(kind)) for kind in KINDS} == {"controlnet": ControlNetModel, "adapter": T2IAdapter}


def test_cubic_timesteps_stand_late_and_within_range():
    u = (torch.arange(10000) + 0.5) / 10000
    t = timesteps(u, "cubic", 1000)
    assert t.min() >= 0 and t.max() == 999
    assert (t >= 900).float().mean() == pytest.approx(0.1 ** (1 / 3), abs=0.001)
    assert torch.equal(timesteps(u, "uniform", 1000).bincount(), torch.full((1000,), 10))


def test_edges_belong_to_the_pairs_of_their_batch(tmp_path):
    n = 12
    latents = np.arange(n, dtype=np.float16)[:, None, None, None].repeat(4, 1)
    np.save(tmp_path / "latents.npy", latents)
    np.save(tmp_path / "prompt_embeds.npy", np.zeros((n, 2, 2), np.float16))
    (tmp_path / "card.json").write_text(json.dumps({"n": n}))
    pictures = images(n)
    data = EncodedWithEdges(tmp_path, pictures, batch_size=4, seed=0)
    for step in (0, 5):
        some = data(step)
        index = some.latents[:, 0, 0, 0].long().numpy()
        assert np.array_equal(some.edges, edge_map(pictures[index]))
    with pytest.raises(UserError, match="of 12 images, not of 3"):
        EncodedWithEdges(tmp_path, pictures[:3], batch_size=4, seed=0)
