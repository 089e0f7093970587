"""An update does no more U-Net work than its equations need."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator

from tests.settings import configured, make_objective, make_trainer
from ufogen.base.models import build_denoiser, make_scheduler
from ufogen.base.text import MAX_LENGTH, WIDTH
from ufogen.data.encoded import EncodedBatch
from ufogen.diffusion.networks import frozen, make_networks
from ufogen.diffusion.objective import DiffusionGAN
from ufogen.diffusion.schedule import Schedule
from ufogen.randomness import Draws

BATCH = 16
ALLOWED = 1.3


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


@pytest.mark.slow
def test_update_costs_at_most_its_own_passes_and_three_tenths():
    """Processor time of an update without R1 against its passes alone: G forward and backward, D forward and backward on
    real and fake in one batch, D forward and backward to its input for G."""
    torch.manual_seed(0)
    schedule = Schedule.from_scheduler(make_scheduler("epsilon"))
    objective = make_objective(r1_weight=0)
    generator, discriminator = make_networks(build_denoiser(configured().pretrain.denoiser), schedule, "epsilon", objective)
    task = DiffusionGAN(generator, discriminator, schedule, objective, make_trainer(batch_size=BATCH))
    task.prepare(Accelerator(cpu=True))
    batch = EncodedBatch(torch.randn(BATCH, 4, 8, 8), torch.randn(BATCH, MAX_LENGTH, WIDTH))
    x, t, prompt_embeds = batch.latents, torch.full((BATCH,), 500), batch.prompt_embeds
    double = (torch.cat([x, x]), torch.cat([t, t]), torch.cat([prompt_embeds, prompt_embeds]))

    def passes() -> None:
        generator(x, t, prompt_embeds).sum().backward()
        discriminator(*double).sum().backward()
        with frozen(discriminator):
            discriminator(x.clone().requires_grad_(), t, prompt_embeds).sum().backward()
        generator.zero_grad()
        discriminator.zero_grad()

    def update() -> None:
        task.update(batch, 1, Draws(torch.Generator().manual_seed(0)))

    passes(), update()
    ratios = []
    for _ in range(5):  # interleaved, so that a change of the machine's speed hits both
        alone = seconds(passes)
        ratios.append(seconds(update) / alone)
    assert statistics.median(ratios) < ALLOWED, ratios
    print(f"update / passes alone: {statistics.median(ratios):.2f}")
