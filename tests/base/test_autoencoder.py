"""The autoencoder's training: noise on the decoder's latents, and the average that is the result."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tests import tiny
from tests.settings import make_autoencoder
from ufogen.base.autoencoder import AutoencoderTask, to_model_range
from ufogen.base.models import build_autoencoder
from ufogen.randomness import Draws, torch_generator

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)  # squares


def make_task(ema_decay: float = 0.0, **round_) -> AutoencoderTask:
    torch.manual_seed(0)
    settings = make_autoencoder(channels=[8, 8, 16], latent_channels=8, warmup=0, ema_decay=ema_decay)
    task = AutoencoderTask(
        build_autoencoder(settings), settings, replace(settings.rounds[0], **{"updates": 10, "absolute_error": True} | round_)
    )
    task.prepare(Accelerator(cpu=True))
    return task


def update(task: AutoencoderTask, step: int) -> dict[str, float]:
    scalars = task.update(IMAGES, step, Draws(torch_generator("cpu", 0, "test", step)))
    return {name: float(value.detach()) for name, value in scalars.items()}


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_said():
    task = make_task(ema_decay=0.5)
    assert "skipped" not in update(task, 0)
    before, average = tiny.flat(task.model), torch.cat([x.flatten() for x in task.ema.shadow_params])
    task.model.encoder.conv_in.weight.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    assert "skipped" in update(task, 1) and torch.equal(tiny.flat(task.model), before)
    assert torch.equal(torch.cat([x.flatten() for x in task.ema.shadow_params]), average)


def decoded(monkeypatch: pytest.MonkeyPatch, **round_) -> torch.Tensor:
    task, seen = make_task(**round_), []
    decode = task.model.decode
    monkeypatch.setattr(task.model, "decode", lambda z: seen.append(z.detach()) or decode(z))
    update(task, 0)
    return seen[0]


def test_noise_is_in_units_of_the_latents_own_deviation(monkeypatch):
    clean, one, two = (decoded(monkeypatch, latent_noise=scale) for scale in (0.0, 1.0, 2.0))
    assert torch.allclose(two - clean, 2 * (one - clean), atol=1e-5)
    draws = Draws(torch_generator("cpu", 0, "test", 0))
    draws.normal(clean)  # the encoder's own
    size = draws.normal(clean[:, :1, :1, :1]).abs()
    assert torch.allclose((one - clean) / clean.std(), size * draws.normal(clean), atol=1e-5)


def test_without_noise_the_error_is_the_autoencoders_own():
    task = make_task(latent_noise=0.0)
    x, draws = to_model_range(IMAGES, "cpu"), Draws(torch_generator("cpu", 0, "test", 0))
    with torch.no_grad():
        latent = task.model.encode(x).latent_dist
        error = task.model.decode(latent.mean + latent.std * draws.normal(latent.mean)).sample - x
    assert update(task, 0)["l1"] == pytest.approx(float(error.abs().mean()), rel=1e-6)


def test_average_without_decay_is_the_last_weights_and_with_it_lags():
    for decay in (0.0, 0.9):
        task = make_task(ema_decay=decay)
        for step in range(3):
            update(task, step)
        same = map(torch.equal, task.ema.shadow_params, task.model.parameters())
        assert all(same) == (decay == 0)
