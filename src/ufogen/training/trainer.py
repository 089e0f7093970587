"""One update of G and D under accelerate: micro-batches, gradients, optimizers, the average. What is computed, and why, is
in `diffusion/objective.py`; how a network lies on the processes, in `parallel.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from ufogen import config
from ufogen.diffusion.batch import EncodedBatch, Items
from ufogen.diffusion.networks import Discriminator, Generator
from ufogen.diffusion.objective import DiffusionGAN
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.randomness import Draws
from ufogen.training.optimized import Optimized, means, micro_batches

Generate = Callable[[Items, bool], tuple[Tensor, Tensor]]  # x'_0 and x'_s of a part, with or without a graph


class AdversarialTrainer:
    """A task for `training.loop.fit`: one update of D and one of G from the same forward pass of G.

    schedule: that of the generator, which ends at the entry timestep.
    Raises `UserError` where settings do not fit the schedule or one another.

    Attributes
    ----------
    ema: the average of G's trained weights.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        schedule: Schedule,
        objective: config.Objective,
        settings: config.Trainer,
    ):
        check(objective, settings, schedule)
        self.generator, self.discriminator, self.schedule = generator, discriminator, schedule
        self.objective, self.settings = DiffusionGAN(schedule, objective), settings

    def prepare(self, accelerator: Accelerator) -> None:
        """Make optimizers and average, and hand everything that has state to accelerate.

        Raises `UserError` for settings that do not go with trainer.sharding.
        """
        self.accelerator, tr = accelerator, self.settings
        rates = {"generator": tr.generator_learning_rate, "discriminator": tr.discriminator_learning_rate}
        self.of_g, self.of_d = (
            Optimized(name, network, rates[name], warmup, accelerator, tr, averaged=network is self.generator)
            for name, network, warmup in (
                ("generator", self.generator, tr.generator_warmup),
                ("discriminator", self.discriminator, tr.warmup),
            )
        )
        self.g, self.d, self.ema = self.of_g.passes, self.of_d.passes, self.of_g.ema
        self.optimizer_g, self.optimizer_d = self.of_g.optimizer, self.of_d.optimizer
        self.schedule.to(accelerator.device)

    def update(self, batch: EncodedBatch, step: int, draws: Draws) -> dict[str, Tensor]:
        """One optimizer step of D, then one of G. Returns scalars, among them both adversarial losses.

        A step whose gradient is not finite is left out, and the scalars say `skipped`.
        With accumulation each step sums the gradients of several micro-batches. G's pass is then made twice, for D without
        a graph and again for G once D has moved, so that no more than one micro-batch's graph is ever held.
        """
        first, updates = self.settings.discriminator_first, self.settings.updates
        moves = step >= first  # G does
        self.of_d.begin(step, updates)
        self.of_g.begin(max(step - first, 0), updates - first)
        items = self.objective.draw(*batch.on(self.accelerator.device), draws)  # nothing in it depends on the division
        parts = items.split(self.settings.accumulation)
        generate = self._generate
        if len(parts) == 1 and moves:
            shared = self._generate(parts[0], True)

            def generate(part: Items, graph: bool) -> tuple[Tensor, Tensor]:
                return shared

        scalars = self._update_discriminator(parts, generate, step)
        return scalars | self._update_generator(parts, generate) if moves else scalars

    def unet_evaluations(self, updates: int) -> int:
        """Forward passes of a U-Net per item over a run: G, D on real and fake, D for G, and the lazy ones of R1 and R2."""
        o, tr = self.objective.settings, self.settings
        penalties = len(range(0, updates, o.r1_interval)) * ((o.r1_weight > 0) + (o.r2_weight > 0))
        of_g = 1 + (tr.accumulation > 1) + (o.adversarial == "relativistic")  # beside the passes of D's update
        moves = max(updates - tr.discriminator_first, 0)
        return tr.batch_size * tr.accumulation * (updates * (1 + 2) + moves * of_g + penalties)

    def averaged(self) -> contextlib.AbstractContextManager[Generator | None]:
        """The generator, which within the context has the averaged weights.

        Sharded, it is a whole copy on the main process and None on the others, and all processes must enter.
        """
        return self.of_g.averaged()

    def _generate(self, part: Items, graph: bool) -> tuple[Tensor, Tensor]:
        """x'_0 and x'_s; with a graph, gradients reach G."""
        with torch.set_grad_enabled(graph):
            return self.objective.generate(self.g, part)

    def _update_discriminator(self, parts: list[Items], generate: Generate, step: int) -> dict[str, Tensor]:
        penalized = self.objective.penalized(step)
        scalars = []
        for part in micro_batches(parts, self.d):
            x_s_fake = generate(part, False)[1].detach()
            with self.d.twice_differentiable() if penalized else contextlib.nullcontext() as discriminator:
                loss, found = self.objective.discriminator_loss(self.d, part, x_s_fake)
                if penalized:
                    penalty, further = self.objective.penalties(discriminator, part, x_s_fake)
                    loss, found = loss + penalty, found | further
                self.accelerator.backward(loss / len(parts))
            scalars.append(found)
        return means(scalars) | self.of_d.step()

    def _update_generator(self, parts: list[Items], generate: Generate) -> dict[str, Tensor]:
        scalars, at_last = [], []
        with self.d.frozen() as discriminator:  # the backward pass too, where checkpointing passes D again
            for part in micro_batches(parts, self.g):
                x_0_fake, x_s_fake = generate(part, True)
                loss, found = self.objective.generator_loss(discriminator, part, x_0_fake, x_s_fake)
                self.accelerator.backward(loss / len(parts))
                scalars.append(found)
                at_last.append(x_0_fake.detach()[part.t == self.schedule.num_timesteps - 1])
                del x_0_fake, x_s_fake, loss  # and with them the graph, before the next part's is made
        logged = means(scalars) | self.of_g.step()
        # a generator whose one-step samples lose or gain variance is on its way to collapse or divergence
        if any(map(len, at_last)):
            logged["std_last"] = torch.cat(at_last).std()
        return logged


def check(objective: config.Objective, settings: config.Trainer, schedule: Schedule) -> None:
    """Raise `UserError` for settings that do not fit the schedule or one another."""
    config.check_timesteps(objective, schedule.num_timesteps)
    group = objective.statistics_group
    if group and settings.batch_size % group:
        allowed = f"0 and divisors of trainer.batch_size {settings.batch_size}"
        raise UserError(f"parameter objective.statistics_group is {group}; allowed: {allowed}")
    if settings.discriminator_first >= settings.updates:
        allowed = f"0 ... {settings.updates - 1}, below trainer.updates"
        raise UserError(f"parameter trainer.discriminator_first is {settings.discriminator_first}; allowed: {allowed}")
