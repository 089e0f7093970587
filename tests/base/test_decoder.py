"""The decoder's training: the encoder stays, noise and discriminator do what they are said to."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests import tiny
from tests.settings import configured
from ufogen.base.autoencoder import decode_latents, encode_images, to_model_range
from ufogen.base.decoder import DecoderTask, PatchDiscriminator
from ufogen.base.models import build_autoencoder
from ufogen.randomness import Draws, torch_generator

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)  # squares


def make_task(**settings) -> DecoderTask:
    torch.manual_seed(0)
    made = configured(pretrain={"autoencoder": {"channels": [8, 8, 16]}, "decoder": {"warmup": 0} | settings}).pretrain
    task = DecoderTask(build_autoencoder(made.autoencoder), made.decoder)
    task.prepare(Accelerator(cpu=True))
    return task


def update(task: DecoderTask, step: int) -> dict[str, float]:
    scalars = task.update(IMAGES, step, Draws(torch_generator("cpu", 0, "test", step)))
    return {name: float(value.detach()) for name, value in scalars.items()}


def test_latents_stay_and_only_the_decoder_learns():
    task = make_task(updates=10)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    latents = encode_images(IMAGES, task.model)
    for step in range(2):
        update(task, step)
    changed = {name.split(".")[0] for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "post_quant_conv"}
    assert torch.equal(encode_images(IMAGES, task.model), latents)


@pytest.mark.parametrize("part", ["decoder", "discriminator"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_said(part):
    task = make_task(updates=10)
    update(task, 0)
    network = task.model if part == "decoder" else task.discriminator
    before, average = tiny.flat(network), torch.cat([x.flatten() for x in task.ema.shadow_params])
    weight = next(parameter for parameter in network.parameters() if parameter.requires_grad)
    weight.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
    assert "skipped" in update(task, 1) and torch.equal(tiny.flat(network), before)
    assert torch.equal(torch.cat([x.flatten() for x in task.ema.shadow_params]), average) == (part == "decoder")


def test_without_noise_the_error_is_the_autoencoders_own():
    task = make_task(updates=10, latent_noise=0.0)
    x, draws = to_model_range(IMAGES, "cpu"), Draws(torch_generator("cpu", 0, "test", 0))
    with torch.no_grad():
        latent = task.model.encode(x).latent_dist
        error = task.model.decode(latent.mean + latent.std * draws.normal(latent.mean)).sample - x
    scalars = update(task, 0)
    assert scalars["l1"] == pytest.approx(float(error.abs().mean()), rel=1e-6)
    assert scalars["l2"] == pytest.approx(float(error.square().mean()), rel=1e-6)


def test_noise_is_in_units_of_the_scaled_latents(monkeypatch):
    seen = []
    for factor in (1.0, 0.5):
        task = make_task(updates=10, latent_noise=1.0)
        task.model.register_to_config(scaling_factor=factor)
        decode = task.model.decode
        monkeypatch.setattr(task.model, "decode", lambda z, decode=decode: seen.append(z) or decode(z))
        update(task, 0)
    draws, x = Draws(torch_generator("cpu", 0, "test", 0)), to_model_range(IMAGES, "cpu")
    with torch.no_grad():
        latent = make_task().model.encode(x).latent_dist
    clean = latent.mean + latent.std * draws.normal(latent.mean)
    assert torch.allclose(seen[1] - clean, 2 * (seen[0] - clean), atol=1e-5)
    assert (seen[0] - clean).std() > 0.1


def test_training_lowers_the_error_and_the_average_follows():
    task = make_task(updates=200, latent_noise=0.0, adversarial_weight=0.0, learning_rate=3e-3, ema_decay=0.9)
    errors = [update(task, step)["l1"] for step in range(100)]
    assert errors[-1] < 0.75 * errors[0]
    task.ema.copy_to(task.trained)
    output = decode_latents(encode_images(IMAGES, task.model), task.model)
    assert np.abs(output.astype(float) - IMAGES).mean() / 127.5 < 0.8 * errors[0]


def test_discriminator_learns_to_tell_reconstructions():
    task = make_task(updates=200, adversarial_weight=0.0, learning_rate=1e-9, r1_weight=0.01)
    losses = [update(task, step)["loss_d"] for step in range(40)]
    assert losses[0] == pytest.approx(2, abs=0.1)  # it knows nothing yet: 2 is the hinge loss's equilibrium
    assert losses[-1] < 1.5


def test_adversarial_weight_rises_from_nothing():
    outputs = []
    for weight in (0.0, 5.0):
        task = make_task(updates=10, adversarial_weight=weight, adversarial_warmup=2)
        update(task, 0)
        outputs.append([value.clone() for value in task.trained])
        update(task, 1)
        outputs.append([value.clone() for value in task.trained])
    assert all(map(torch.equal, outputs[0], outputs[2]))
    assert not all(map(torch.equal, outputs[1], outputs[3]))


def test_a_logit_sees_thirty_two_pixels():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 96, 96, requires_grad=True)
    logits = PatchDiscriminator(4)(x)
    assert logits.shape == (1, 1, 24, 24)
    logits[0, 0, 12, 12].backward()
    rows = x.grad[0].abs().sum((0, 2)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 32
