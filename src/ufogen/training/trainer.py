"""One update of G and D under accelerate: micro-batches, gradients, optimizers, the average. What is computed, and why, is
in `diffusion/objective.py`; how a network lies on the processes, in `parallel.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor

from ufogen import config
from ufogen.diffusion.batch import EncodedBatch, Items
from ufogen.diffusion.networks import Discriminator, Generator
from ufogen.diffusion.objective import DiffusionGAN
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.randomness import Draws
from ufogen.training.learning_rate import learning_rate, set_learning_rate
from ufogen.training.optimizers import make_optimizer, skipped, step_where_finite
from ufogen.training.parallel import Parallel, make_parallel

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
        self.g, self.d = (make_parallel(network, accelerator, tr) for network in (self.generator, self.discriminator))
        self.ema = EMAModel(self.g.trained, decay=tr.ema_decay, foreach=True)
        optimizer_g = make_optimizer(self.g.trained, tr.generator_learning_rate, tr)
        optimizer_d = make_optimizer(self.d.trained, tr.discriminator_learning_rate, tr)
        self.optimizer_g = self.g.prepare("generator", optimizer_g, ema=self.ema)
        self.optimizer_d = self.d.prepare("discriminator", optimizer_d)
        self.ema.to(self._ema_device)
        self.schedule.to(accelerator.device)

    def update(self, batch: EncodedBatch, step: int, draws: Draws) -> dict[str, Tensor]:
        """One optimizer step of D, then one of G. Returns scalars, among them both adversarial losses.

        A step whose gradient is not finite is left out, and the scalars say `skipped`.
        With accumulation each step sums the gradients of several micro-batches. G's pass is then made twice, for D without
        a graph and again for G once D has moved, so that no more than one micro-batch's graph is ever held.
        """
        self._set_learning_rates(step)
        moves = step >= self.settings.discriminator_first  # G does
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

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Generator | None]:
        """The generator, which within the context has the averaged weights.

        Sharded, it is a whole copy on the main process and None on the others, and all processes must enter.
        """
        self.ema.store(self.g.trained)
        self.ema.copy_to(self.g.trained)
        try:
            with self.g.whole() as generator:
                yield generator
        finally:
            self.ema.restore(self.g.trained)

    @property
    def _ema_device(self) -> torch.device | str:
        return "cpu" if self.settings.ema_device == "cpu" else self.accelerator.device

    def _generate(self, part: Items, graph: bool) -> tuple[Tensor, Tensor]:
        """x'_0 and x'_s; with a graph, gradients reach G."""
        with torch.set_grad_enabled(graph):
            return self.objective.generate(self.g, part)

    def _update_discriminator(self, parts: list[Items], generate: Generate, step: int) -> dict[str, Tensor]:
        penalized = self.objective.penalized(step)
        self.optimizer_d.zero_grad()
        scalars = []
        for part in _micro_batches(parts, self.d):
            x_s_fake = generate(part, False)[1].detach()
            with self.d.twice_differentiable() if penalized else contextlib.nullcontext() as discriminator:
                loss, found = self.objective.discriminator_loss(self.d, part, x_s_fake)
                if penalized:
                    penalty, further = self.objective.penalties(discriminator, part, x_s_fake)
                    loss, found = loss + penalty, found | further
                self.accelerator.backward(loss / len(parts))
            scalars.append(found)
        done = step_where_finite(self.optimizer_d, self.d.take_gradients(self.settings.gradient_clip))
        return _means(scalars) | skipped(done)

    def _update_generator(self, parts: list[Items], generate: Generate) -> dict[str, Tensor]:
        self.optimizer_g.zero_grad()
        scalars, at_last = [], []
        with self.d.frozen() as discriminator:  # the backward pass too, where checkpointing passes D again
            for part in _micro_batches(parts, self.g):
                x_0_fake, x_s_fake = generate(part, True)
                loss, found = self.objective.generator_loss(discriminator, part, x_0_fake, x_s_fake)
                self.accelerator.backward(loss / len(parts))
                scalars.append(found)
                at_last.append(x_0_fake.detach()[part.t == self.schedule.num_timesteps - 1])
                del x_0_fake, x_s_fake, loss  # and with them the graph, before the next part's is made
        done = step_where_finite(self.optimizer_g, self.g.take_gradients(self.settings.gradient_clip))
        if done:
            self.ema.to(self.accelerator.device)  # accelerate loads it on the CPU
            self.ema.step(self.g.trained)
            self.ema.to(self._ema_device)
        means = _means(scalars) | skipped(done)
        # a generator whose one-step samples lose or gain variance is on its way to collapse or divergence
        if any(map(len, at_last)):
            means["std_last"] = torch.cat(at_last).std()
        return means

    def _set_learning_rates(self, step: int) -> None:
        tr = self.settings
        for optimizer, peak, warmup, first in (
            (self.optimizer_g, tr.generator_learning_rate, tr.generator_warmup, tr.discriminator_first),
            (self.optimizer_d, tr.discriminator_learning_rate, tr.warmup, 0),
        ):
            set_learning_rate(optimizer, learning_rate(max(step - first, 0), peak, warmup, tr.updates - first, tr.decay))


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


def _micro_batches(parts: list[Items], network: Parallel) -> Iterator[Items]:
    """The parts one after another; processes exchange the gradients of `network` at the last one alone."""
    for part in parts[:-1]:
        with network.more_to_come():
            yield part
    yield parts[-1]


def _means(scalars: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each scalar over micro-batches of one size."""
    return {name: sum(part[name] for part in scalars) / len(scalars) for name in scalars[0]}
