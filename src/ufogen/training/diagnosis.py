"""What D knows and what G hears, measured at a point of a run without changing it."""

from __future__ import annotations

import torch
from torch import Tensor

from ufogen.diffusion.batch import EncodedBatch
from ufogen.randomness import Draws
from ufogen.training.trainer import AdversarialTrainer

LOG_SIGMA = (-1.0, 0.0, 1.0)  # bounds of the bins of s, as log sigma_s


def diagnose(task: AdversarialTrainer, batch: EncodedBatch, draws: Draws) -> dict[str, float]:
    """D's share of right decisions by the noise in what it sees, and the gradients of both terms of G's loss at x'_0.

    accuracy_d_0 ... accuracy_d_3: of items with log sigma_s below -1, below 0, below 1 and from 1 on; a real one is right
        where its decision, the mean of its logits, is above 0, or in relativistic pairs above the generated one's.
    gradient_adversarial_entry, gradient_reconstruction_entry, ..._below: the norm at an item's x'_0, averaged over those
        that enter at the last timestep and over the others.
    A bin without items is missing.
    """
    gan, n = task.objective, len(batch.latents)
    items = gan.draw(*batch.on(task.accelerator.device), draws)
    with torch.no_grad():
        x_0_fake, x_s_fake = gan.generate(task.g, items)
        real, fake = (task.d(x, items.s, x_t=items.x_t, **items.caption).flatten(1).mean(dim=1) for x in (items.x_s, x_s_fake))
    right = (real > fake).float() if gan.settings.adversarial == "relativistic" else ((real > 0).float() + (fake < 0)) / 2
    log_sigma = -0.5 * gan.schedule.snr(items.s).log()
    bins = torch.bucketize(log_sigma.to(real), torch.tensor(LOG_SIGMA, device=real.device), right=True)
    found = {f"accuracy_d_{i}": right[bins == i] for i in range(len(LOG_SIGMA) + 1)}

    x_0_fake.requires_grad_()
    _, x_s_fake = gan.generate(lambda *_, **__: x_0_fake, items)
    with task.d.frozen() as discriminator:
        for term, part in (("adversarial", 0), ("reconstruction", 1)):
            gradient = _gradient(gan.generator_terms(discriminator, items, x_0_fake, x_s_fake)[part], x_0_fake)
            norm = n * gradient.flatten(1).norm(dim=1)  # of an item's own loss
            entered = items.t == gan.schedule.num_timesteps - 1
            found |= {f"gradient_{term}_entry": norm[entered], f"gradient_{term}_below": norm[~entered]}
    return {name: value.mean().item() for name, value in found.items() if len(value)}


def _gradient(loss: Tensor, x: Tensor) -> Tensor:
    """Zero where the loss does not depend on x, as without a reconstruction."""
    return torch.autograd.grad(loss, x)[0] if loss.requires_grad else torch.zeros_like(x)
