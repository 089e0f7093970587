"""An update does no more U-Net work than its equations need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny
from tests.settings import make_objective
from ufogen.diffusion.networks import frozen
from ufogen.randomness import Draws
from ufogen.training.loop import make_accelerator

N = 4


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_update_costs_its_own_passes_and_no_more():
    """G forward and backward, D forward and backward on real and fake in one batch, D forward and backward to its input for
    G. Operations are counted and not timed, so that a busy machine changes nothing."""
    task = tiny.task(make_objective(r1_weight=0))
    task.prepare(make_accelerator("cpu", "no"))
    generator, discriminator = task.generator, task.discriminator
    x, t, prompt_embeds = tiny.latents(N), torch.full((N,), 500), tiny.prompt_embeds(N)
    double = (torch.cat([x, x]), torch.cat([t, t]), torch.cat([prompt_embeds, prompt_embeds]))

    def passes() -> None:
        x_0 = generator(x, t, prompt_embeds)
        discriminator(*double).sum().backward()
        with frozen(discriminator):
            discriminator(x_0, t, prompt_embeds).sum().backward()

    def update() -> None:
        task.update(tiny.batch(0, N), 0, Draws(torch.Generator().manual_seed(0)))

    alone = flops(passes)
    assert alone > 1e6
    assert flops(update) == alone
