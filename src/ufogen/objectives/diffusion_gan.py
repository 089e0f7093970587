"""UFOGen and its relatives: one objective with the axes along which diffusion-GANs differ.

An update, in the notation of the paper (s = t - k):

    x_0 ~ data, t, x_s ~ q(x_s|x_0), x_t ~ q(x_t|x_0) or q(x_t|x_s)
    x'_0 = G(x_t, t)
    x'_s ~ q(x_s|x'_0)                      forward parameterisation, UFOGen
           q(x_s|x_t, x'_0)                 posterior parameterisation, DDGAN and SIDDM
    D:  min  -log D(x_s, s) - log(1 - D(x'_s, s))  [+ R1]
    G:  min  -log D(x'_s, s) + lambda gamma_t ||x_0 - x'_0||^2
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor

from ufogen import config, losses
from ufogen.data.encoded import EncodedBatch
from ufogen.errors import UserError
from ufogen.networks import Discriminator, Generator, frozen
from ufogen.optimization import learning_rate, set_learning_rate
from ufogen.randomness import Draws
from ufogen.schedule import CLEAN, Schedule


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
        steps = schedule.num_timesteps
        if not 1 <= objective.step_size <= steps:
            raise UserError(f"parameter objective.step_size is {objective.step_size}; allowed: 1 ... {steps}")
        if objective.minimum_timestep >= steps:
            raise UserError(f"parameter objective.minimum_timestep is {objective.minimum_timestep}; allowed: 0 ... {steps - 1}")
        if objective.step_size_max and not objective.step_size <= objective.step_size_max <= steps:
            raise UserError(
                f"parameter objective.step_size_max is {objective.step_size_max}; allowed: 0, {objective.step_size} ... {steps}"
            )
        for name in ("last_timestep_share", "mismatched_share"):
            if getattr(objective, name) > 1:
                raise UserError(f"parameter objective.{name} is {getattr(objective, name)}; allowed: 0 ... 1")
        self.generator, self.discriminator, self.schedule = generator, discriminator, schedule
        self.objective, self.trainer = objective, trainer
        self.average = EMAModel(generator.parameters(), decay=trainer.ema_decay, foreach=True)

    def prepare(self, accelerator: Accelerator) -> None:
        """Make the optimizers and hand everything that has state to accelerate."""
        self.accelerator, tr = accelerator, self.trainer
        betas = (tr.beta1, tr.beta2)
        optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=tr.generator_learning_rate, betas=betas, fused=True)
        optimizer_d = torch.optim.Adam(
            self.discriminator.parameters(), lr=tr.discriminator_learning_rate, betas=betas, fused=True
        )
        self.generator, self.discriminator, self.optimizer_g, self.optimizer_d = accelerator.prepare(
            self.generator, self.discriminator, optimizer_g, optimizer_d
        )
        self.average.to(accelerator.device)
        self.schedule.to(accelerator.device)
        accelerator.register_for_checkpointing(self.average)
        compile_ = torch.compile if tr.compile else lambda network: network
        self.G, self.D = compile_(self.generator), compile_(self.discriminator)

    def update(self, batch: EncodedBatch, step: int, draws: Draws) -> dict[str, Tensor]:
        """One optimizer step of D, then one of G. Returns scalars, among them both adversarial losses."""
        o, tr = self.objective, self.trainer
        generates = step % tr.generator_interval == 0
        self._set_learning_rates(step)
        x_0 = batch.latents.to(self.accelerator.device, torch.float32)  # (b, 4, 8, 8)
        states = batch.states.to(self.accelerator.device, torch.float32)  # (b, tokens, width)
        t, s = self._timesteps(draws, len(x_0))
        x_s = self.schedule.q(x_0, s).sample(draws.normal(x_0))
        if o.coupling == "chained":
            x_t = self.schedule.q_step(x_s, s, t).sample(draws.normal(x_0))
        else:
            x_t = self.schedule.q(x_0, t).sample(draws.normal(x_0))

        with torch.set_grad_enabled(generates), self.accelerator.autocast():
            x_0_fake = self.G(x_t, t, states)
        if o.parameterization == "forward":
            law = self.schedule.q(x_0_fake, s)
        else:
            law = self.schedule.posterior(x_0_fake, x_t, t, s)
        x_s_fake = law.sample(draws.normal(x_0))

        scalars: dict[str, Tensor] = {}
        if step % tr.discriminator_interval == 0:
            count = step // tr.discriminator_interval
            scalars |= self._update_discriminator(x_s, x_s_fake.detach(), x_t, s, states, count)
        if generates:
            scalars |= self._update_generator(x_0, x_0_fake, x_s, x_s_fake, x_t, t, s, states, draws)
        return scalars

    def unet_evaluations(self, updates: int) -> int:
        """Forward passes of a U-Net per item over a run: G, D on real and fake, D for G, and the lazy ones of R1."""
        o, tr = self.objective, self.trainer
        of_d, of_g = (len(range(0, updates, interval)) for interval in (tr.discriminator_interval, tr.generator_interval))
        penalties = len(range(0, of_d, o.r1_interval)) if o.r1_weight else 0
        return tr.batch_size * (updates + 2 * of_d + of_g + penalties)

    def _update_discriminator(
        self, x_s: Tensor, x_s_fake: Tensor, x_t: Tensor, s: Tensor, states: Tensor, count: int
    ) -> dict[str, Tensor]:
        o = self.objective
        states_fake, mismatched = states, round(o.mismatched_share * len(x_s))
        if mismatched:  # real samples under the caption of another item count as fake too
            x_s_fake = torch.cat([x_s[:mismatched], x_s_fake[mismatched:]])
            states_fake = torch.cat([states.roll(1, 0)[:mismatched], states[mismatched:]])
        both = (torch.cat([x_s, x_s_fake]), torch.cat([s, s]), torch.cat([states, states_fake]), torch.cat([x_t, x_t]))
        with self.accelerator.autocast():
            real, fake = self.D(*both).chunk(2)
        loss = losses.discriminator_loss(real, fake, o.adversarial)
        scalars = {"loss_d": loss.detach(), "logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        if o.r1_weight and count % o.r1_interval == 0:
            x_s = x_s.detach().requires_grad_()
            # not the compiled D, which cannot be differentiated twice
            logits = self.discriminator(x_s, s, states, x_t)
            penalty = losses.r1_penalty(logits, x_s, self.schedule.alpha_bar(s) if o.r1_variable == "x_0" else None)
            # the interval's factor keeps the mean strength that of a penalty at every update
            loss = loss + o.r1_weight * o.r1_interval * penalty
            scalars["r1"] = penalty.detach()
        self.optimizer_d.zero_grad()
        self.accelerator.backward(loss)
        self._clip(self.discriminator)
        self.optimizer_d.step()
        return scalars

    def _update_generator(
        self,
        x_0: Tensor,
        x_0_fake: Tensor,
        x_s: Tensor,
        x_s_fake: Tensor,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        states: Tensor,
        draws: Draws,
    ) -> dict[str, Tensor]:
        o = self.objective
        discriminator = self.accelerator.unwrap_model(self.discriminator, keep_torch_compile=False)
        with frozen(discriminator), self.accelerator.autocast():
            adversarial = losses.generator_loss(discriminator(x_s_fake, s, states, x_t), o.adversarial)
        loss, scalars = adversarial, {"loss_g": adversarial.detach()}
        if o.reconstruction != "none":
            if o.reconstruction == "x_0":
                pair, gamma = (x_0_fake, x_0), losses.gamma_weight(o.gamma, t, s, self.schedule)
            elif o.reconstruction == "x_s":
                pair, gamma = (x_s_fake, x_s), losses.forward_kl_weight(t, s, self.schedule)
            else:
                x_t_fake = self.schedule.q_step(x_s_fake, s, t).sample(draws.normal(x_0))
                pair, gamma = (x_t_fake, x_t), losses.rediffusion_weight(t, s, self.schedule)
            reconstruction = losses.reconstruction_loss(*pair, gamma)
            loss = loss + o.reconstruction_weight * reconstruction
            scalars["reconstruction"] = reconstruction.detach()
        self.optimizer_g.zero_grad()
        self.accelerator.backward(loss)
        self._clip(self.generator)
        self.optimizer_g.step()
        self.average.step(self.generator.parameters())
        # a generator whose one-step samples lose or gain variance is on its way to collapse or divergence
        last = t == self.schedule.num_timesteps - 1
        if last.any():
            scalars["std_last"] = x_0_fake.detach()[last].std()
        return scalars

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
        if self.trainer.gradient_clip:
            self.accelerator.clip_grad_norm_(network.parameters(), self.trainer.gradient_clip)
