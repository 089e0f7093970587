"""UFOGen and its relatives: one objective with the axes along which diffusion-GANs differ.

An update, in the notation of the paper (s = t - k):

    x_0 ~ data, t, x_s ~ q(x_s|x_0), x_t ~ q(x_t|x_0) or q(x_t|x_s)
    x'_0 = G(x_t, t)
    x'_s ~ q(x_s|x'_0)                      forward parameterisation, UFOGen
           q(x_s|x_t, x'_0)                 posterior parameterisation, DDGAN and SIDDM
    D:  min  -log D(x_s, s) - log(1 - D(x'_s, s))  [+ R1] [+ R2]
    G:  min  -log D(x'_s, s) + lambda gamma_t ||x_0 - x'_0||^2
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor

from ufogen import config
from ufogen.data.encoded import EncodedBatch
from ufogen.diffusion import losses
from ufogen.diffusion.networks import Discriminator, Generator, frozen, trainable
from ufogen.diffusion.schedule import CLEAN, Schedule
from ufogen.randomness import Draws
from ufogen.training import parallel as sharding
from ufogen.training.learning_rate import learning_rate, set_learning_rate
from ufogen.training.optimizers import make_optimizer


@dataclass
class Items:
    """What an update draws for each of its b items, ready to be divided into micro-batches."""

    x_0: Tensor  # (b, 4, 8, 8), as x_s, x_t and the noise
    x_s: Tensor
    x_t: Tensor
    t: Tensor  # (b,)
    s: Tensor
    prompt_embeds: Tensor  # (b, tokens, width)
    prompt_embeds_fake: Tensor  # the captions of D's fakes
    mismatched: Tensor  # (b,), where D's fake is a real sample under another item's caption
    noise_s: Tensor  # of x'_s
    noise_t: Tensor | None  # of x'_t in the forward-KL reconstruction
    pooled_prompt_embeds: Tensor | None = None  # (b, p), for SDXL alone
    pooled_prompt_embeds_fake: Tensor | None = None

    def split(self, n: int) -> list[Items]:
        """n parts of b / n items."""
        values = [getattr(self, field.name) for field in fields(self)]
        return [Items(*part) for part in zip(*([None] * n if v is None else v.chunk(n) for v in values), strict=True)]


Generate = Callable[[Items, bool], tuple[Tensor, Tensor]]  # x'_0 and x'_s of a part, with or without a graph


class DiffusionGAN:
    """A task for `training.loop.fit`: one update of D and one of G from the same forward pass of G.

    Raises `UserError` where the step size or the lowest timestep does not fit the schedule.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        schedule: Schedule,
        objective: config.Objective,
        trainer: config.Trainer,
    ):
        config.check_timesteps(objective, schedule.num_timesteps)
        self.generator, self.discriminator, self.schedule = generator, discriminator, schedule
        self.objective, self.trainer = objective, trainer
        self.trained = trainable(generator)
        self.average = EMAModel(self.trained, decay=trainer.ema_decay, foreach=True)
        self.shards: dict[torch.nn.Module, sharding.Sharded] = {}  # of both networks where they are sharded

    def prepare(self, accelerator: Accelerator) -> None:
        """Make the optimizers and hand everything that has state to accelerate.

        Raises `UserError` for settings that do not go with trainer.sharding.
        """
        self.accelerator, tr = accelerator, self.trainer
        sharding.check(tr, accelerator)
        for network in (self.generator, self.discriminator):
            if tr.gradient_checkpointing:
                network.unet.enable_gradient_checkpointing()
            if tr.compile:  # in place, so that every pass has it, that of D in G's loss too
                network.unet.compile_repeated_blocks()
        if tr.sharding == "none":
            optimizers = self._make_optimizers(self.trained, trainable(self.discriminator))
            self.generator, self.discriminator, self.optimizer_g, self.optimizer_d = accelerator.prepare(
                self.generator, self.discriminator, *optimizers
            )
            accelerator.register_for_checkpointing(self.average)
        else:
            self._shard()
        self.average.to(self._average_device)
        self.schedule.to(accelerator.device)

    def update(self, batch: EncodedBatch, step: int, draws: Draws) -> dict[str, Tensor]:
        """One optimizer step of D, then one of G. Returns scalars, among them both adversarial losses.

        With accumulation each step sums the gradients of several micro-batches. G's pass is then made twice, for D without
        a graph and again for G once D has moved, so that no more than one micro-batch's graph is ever held.
        """
        tr = self.trainer
        generates, discriminates = step % tr.generator_interval == 0, step % tr.discriminator_interval == 0
        if not (generates or discriminates):
            return {}
        self._set_learning_rates(step)
        parts = self._draw(batch, draws).split(tr.accumulation)
        generate = self._generate
        if len(parts) == 1:
            shared = self._generate(parts[0], generates)

            def generate(part: Items, graph: bool) -> tuple[Tensor, Tensor]:
                return shared

        scalars: dict[str, Tensor] = {}
        if discriminates:
            scalars |= self._update_discriminator(parts, generate, step // tr.discriminator_interval)
        if generates:
            scalars |= self._update_generator(parts, generate)
        return scalars

    def unet_evaluations(self, updates: int) -> int:
        """Forward passes of a U-Net per item over a run: G, D on real and fake, D for G, and the lazy ones of R1 and R2."""
        o, tr = self.objective, self.trainer
        of_d, of_g = (len(range(0, updates, interval)) for interval in (tr.discriminator_interval, tr.generator_interval))
        shared = 0
        if tr.accumulation == 1:
            shared = len(range(0, updates, math.lcm(tr.discriminator_interval, tr.generator_interval)))
        penalties = len(range(0, of_d, o.r1_interval)) * ((o.r1_weight > 0) + (o.r2_weight > 0))
        return tr.batch_size * tr.accumulation * ((of_d + of_g - shared) + 2 * of_d + of_g + penalties)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Generator]:
        """The generator, which within the context has the averaged weights.

        Sharded, it is a whole copy on the main process and None on the others, and all processes must enter.
        """
        self.average.store(self.trained)
        self.average.copy_to(self.trained)
        try:
            if self.shards:
                with self.shards[self.generator].whole() as generator:
                    yield generator
            else:
                yield self.accelerator.unwrap_model(self.generator)
        finally:
            self.average.restore(self.trained)

    def _make_optimizers(self, generator: list, discriminator: list) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """Of the parameters of each network."""
        tr = self.trainer
        return (
            make_optimizer(generator, tr.generator_learning_rate, tr),
            make_optimizer(discriminator, tr.discriminator_learning_rate, tr),
        )

    def _shard(self) -> None:
        """Divide the networks; optimizers and average take this process's share and are saved by it."""
        networks, accelerator = (self.generator, self.discriminator), self.accelerator
        self.shards = {network: sharding.Sharded(network, accelerator, self.trainer.sharding) for network in networks}
        of_g, of_d = self.shards.values()
        self.trained = of_g.trained
        self.optimizer_g, self.optimizer_d = self._make_optimizers(of_g.trained, of_d.trained)
        self.average = EMAModel(self.trained, decay=self.trainer.ema_decay, foreach=True)
        sharding.register(
            accelerator, generator=of_g, discriminator=of_d, optimizer_g=self.optimizer_g, optimizer_d=self.optimizer_d,
            average=self.average,
        )  # fmt: skip

    @property
    def _average_device(self) -> torch.device | str:
        return "cpu" if self.trainer.ema_device == "cpu" else self.accelerator.device

    def _draw(self, batch: EncodedBatch, draws: Draws) -> Items:
        """Timesteps, noised samples and noise of an update. Nothing here depends on how it is divided."""
        o, device = self.objective, self.accelerator.device
        x_0 = batch.latents.to(device, torch.float32)  # (b, 4, 8, 8)
        prompt_embeds = batch.prompt_embeds.to(device, torch.float32)  # (b, tokens, width)
        t, s = self._timesteps(draws, len(x_0))
        x_s = self.schedule.q(x_0, s).sample(draws.normal(x_0))
        if o.coupling == "chained":
            x_t = self.schedule.q_step(x_s, s, t).sample(draws.normal(x_0))
        else:
            x_t = self.schedule.q(x_0, t).sample(draws.normal(x_0))
        noise_s = draws.normal(x_0)
        noise_t = draws.normal(x_0) if o.reconstruction == "forward_kl" else None
        mismatched = torch.arange(len(x_0), device=device) < round(o.mismatched_share * len(x_0))
        prompt_embeds_fake = torch.where(mismatched[:, None, None], prompt_embeds.roll(1, 0), prompt_embeds)
        items = Items(x_0, x_s, x_t, t, s, prompt_embeds, prompt_embeds_fake, mismatched, noise_s, noise_t)
        if batch.pooled_prompt_embeds is not None:
            items.pooled_prompt_embeds = batch.pooled_prompt_embeds.to(device, torch.float32)
            items.pooled_prompt_embeds_fake = torch.where(
                mismatched[:, None], items.pooled_prompt_embeds.roll(1, 0), items.pooled_prompt_embeds
            )
        return items

    def _generate(self, part: Items, graph: bool) -> tuple[Tensor, Tensor]:
        """x'_0 and x'_s (b, 4, 8, 8); with a graph, gradients reach G."""
        with torch.set_grad_enabled(graph):
            with self.accelerator.autocast():
                x_0_fake = self.generator(part.x_t, part.t, part.prompt_embeds, part.pooled_prompt_embeds)
            if self.objective.parameterization == "forward":
                law = self.schedule.q(x_0_fake, part.s)
            else:
                law = self.schedule.posterior(x_0_fake, part.x_t, part.t, part.s)
            return x_0_fake, law.sample(part.noise_s)

    def _micro_batches(self, parts: list[Items], network: torch.nn.Module) -> Iterator[Items]:
        """The parts one after another; processes exchange the gradients of `network` at the last one alone."""
        for part in parts[:-1]:
            with self.accelerator.no_sync(network):
                yield part
        yield parts[-1]

    def _update_discriminator(self, parts: list[Items], generate: Generate, count: int) -> dict[str, Tensor]:
        penalized = self.objective.r1_weight + self.objective.r2_weight > 0 and count % self.objective.r1_interval == 0
        self.optimizer_d.zero_grad()
        scalars = []
        for part in self._micro_batches(parts, self.discriminator):
            x_s_fake = generate(part, False)[1].detach()
            with self._differentiated_twice() if penalized else contextlib.nullcontext():
                loss, found = self._discriminator_loss(part, x_s_fake, penalized)
                self.accelerator.backward(loss / len(parts))
            scalars.append(found)
        self._clip(self.discriminator)
        self.optimizer_d.step()
        return _means(scalars)

    def _discriminator_loss(self, part: Items, x_s_fake: Tensor, penalized: bool) -> tuple[Tensor, dict[str, Tensor]]:
        o, x_s, x_t, s = self.objective, part.x_s, part.x_t, part.s
        # real samples under the caption of another item count as fake too
        x_s_fake = torch.where(part.mismatched[:, None, None, None], x_s, x_s_fake)
        prompt_embeds = torch.cat([part.prompt_embeds, part.prompt_embeds_fake])
        pooled_prompt_embeds = (
            None
            if part.pooled_prompt_embeds is None
            else torch.cat([part.pooled_prompt_embeds, part.pooled_prompt_embeds_fake])
        )
        with self.accelerator.autocast():
            logits = self.discriminator(
                torch.cat([x_s, x_s_fake]), torch.cat([s, s]), prompt_embeds, torch.cat([x_t, x_t]), pooled_prompt_embeds
            )
        real, fake = logits.chunk(2)
        loss = losses.discriminator_loss(real, fake, o.adversarial)
        scalars = {"loss_d": loss.detach(), "logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        if penalized:  # the interval's factor keeps the mean strength that of a penalty at every update
            for name, weight, x, its in (
                ("r1", o.r1_weight, x_s, (part.prompt_embeds, part.pooled_prompt_embeds)),
                ("r2", o.r2_weight, x_s_fake, (part.prompt_embeds_fake, part.pooled_prompt_embeds_fake)),
            ):
                if weight:
                    penalty = self._penalty(x, s, x_t, *its)
                    loss = loss + weight * o.r1_interval * penalty
                    scalars[name] = penalty.detach()
        return loss, scalars

    def _penalty(
        self, x_s: Tensor, s: Tensor, x_t: Tensor, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor | None
    ) -> Tensor:
        """R1 where x_s is real, R2 where it is generated."""
        x_s = x_s.detach().requires_grad_()
        with self._eager(), self.accelerator.autocast():
            logits = self.discriminator(x_s, s, prompt_embeds, x_t, pooled_prompt_embeds)
        return losses.r1_penalty(logits, x_s, self.schedule.alpha_bar(s) if self.objective.r1_variable == "x_0" else None)

    def _update_generator(self, parts: list[Items], generate: Generate) -> dict[str, Tensor]:
        self.optimizer_g.zero_grad()
        scalars, at_last = [], []
        discriminator = self.accelerator.unwrap_model(self.discriminator, keep_torch_compile=False)
        with self._frozen(discriminator):  # the backward pass too, where checkpointing passes D again
            for part in self._micro_batches(parts, self.generator):
                x_0_fake, x_s_fake = generate(part, True)
                loss, found = self._generator_loss(part, x_0_fake, x_s_fake, discriminator)
                self.accelerator.backward(loss / len(parts))
                scalars.append(found)
                at_last.append(x_0_fake.detach()[part.t == self.schedule.num_timesteps - 1])
                del x_0_fake, x_s_fake, loss  # and with them the graph, before the next part's is made
        self._clip(self.generator)
        self.optimizer_g.step()
        self.average.to(self.accelerator.device)  # accelerate loads it on the CPU
        self.average.step(self.trained)
        self.average.to(self._average_device)
        means = _means(scalars)
        # a generator whose one-step samples lose or gain variance is on its way to collapse or divergence
        if any(map(len, at_last)):
            means["std_last"] = torch.cat(at_last).std()
        return means

    def _generator_loss(
        self, part: Items, x_0_fake: Tensor, x_s_fake: Tensor, discriminator: Discriminator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        o, t, s = self.objective, part.t, part.s
        with self.accelerator.autocast():
            logits = discriminator(x_s_fake, s, part.prompt_embeds, part.x_t, part.pooled_prompt_embeds)
            loss = losses.generator_loss(logits, o.adversarial)
        scalars = {"loss_g": loss.detach()}
        if o.reconstruction != "none":
            if o.reconstruction == "x_0":
                pair, gamma = (x_0_fake, part.x_0), losses.gamma_weight(o.gamma, t, s, self.schedule)
            elif o.reconstruction == "x_s":
                pair, gamma = (x_s_fake, part.x_s), losses.forward_kl_weight(t, s, self.schedule)
            else:
                x_t_fake = self.schedule.q_step(x_s_fake, s, t).sample(part.noise_t)
                pair, gamma = (x_t_fake, part.x_t), losses.rediffusion_weight(t, s, self.schedule)
            reconstruction = losses.reconstruction_loss(*pair, gamma)
            loss = loss + o.reconstruction_weight * reconstruction
            scalars["reconstruction"] = reconstruction.detach()
        return loss, scalars

    def _frozen(self, discriminator: Discriminator) -> contextlib.AbstractContextManager[None]:
        return self.shards[discriminator].frozen() if self.shards else frozen(discriminator)

    def _differentiated_twice(self) -> contextlib.AbstractContextManager[None]:
        """Round an update of D with R1, from forward to backward pass."""
        return self.shards[self.discriminator].kept_whole() if self.shards else contextlib.nullcontext()

    def _eager(self) -> contextlib.AbstractContextManager:
        """Round what is compiled, which cannot be differentiated twice."""
        return torch.compiler.set_stance("force_eager") if self.trainer.compile else contextlib.nullcontext()

    def _timesteps(self, draws: Draws, n: int) -> tuple[Tensor, Tensor]:
        """t (n,) and s = max(t - k, clean). The grid is T-1, T-1-k, ...; its last step reaches clean data."""
        o, steps = self.objective, self.schedule.num_timesteps
        if o.timesteps == "grid":
            grid = torch.arange(steps - 1, o.minimum_timestep - 1, -o.step_size, device=self.accelerator.device)
            t = grid[draws.integers(0, len(grid), n)]
        else:
            t = draws.integers(o.minimum_timestep, steps, n)
        t = torch.where(draws.uniform(n) < o.last_timestep_share, steps - 1, t)
        k = o.step_size
        if o.step_size_max > k:
            k = draws.integers(k, o.step_size_max + 1, n)
        return t, (t - k).clamp(min=CLEAN)

    def _set_learning_rates(self, step: int) -> None:
        tr = self.trainer
        for optimizer, peak in (
            (self.optimizer_g, tr.generator_learning_rate),
            (self.optimizer_d, tr.discriminator_learning_rate),
        ):
            set_learning_rate(optimizer, learning_rate(step, peak, tr.warmup, tr.updates, tr.decay))

    def _clip(self, network: torch.nn.Module) -> None:
        if self.shards:
            self.shards[network].take_gradients(self.trainer.gradient_clip)
        elif self.trainer.gradient_clip:
            self.accelerator.clip_grad_norm_(network.parameters(), self.trainer.gradient_clip)


def _means(scalars: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each scalar over micro-batches of one size."""
    return {name: sum(part[name] for part in scalars) / len(scalars) for name in scalars[0]}
