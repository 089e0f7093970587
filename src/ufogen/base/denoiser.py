"""Training of the denoiser: DDPM's simple loss on latents, with caption dropout for classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from torch import Tensor

from ufogen import config
from ufogen.base.muon import make_optimizer
from ufogen.diffusion.prediction import training_target
from ufogen.diffusion.schedule import Schedule
from ufogen.randomness import Draws, numpy_generator
from ufogen.training.learning_rate import learning_rate, set_learning_rate
from ufogen.training.optimizers import skipped, step_where_finite


@dataclass
class Chunk:
    """Encoded pairs: token states (n, tokens, 384) of captions, and latents (k * n, c, 8, 8) of k images of each, n by n."""

    latents: Tensor
    prompt_embeds: Tensor


class Chunks:
    """Batches from freshly rendered pairs: a chunk is encoded, its captions seen `passes` times, and replaced.

    Each pass shows a caption with the next of its images: a caption's states cost more than half of what an image costs an
    update of the denoiser, its picture very little, so captions are shared and pictures need not be.
    Calling it with an update's number gives that update's batch; a pure function of seed, key and number.
    """

    def __init__(self, make: Callable[[int], Chunk], settings: config.Denoiser, batch_size: int, seed: int, *key: int):
        if settings.chunk_size % batch_size:
            raise ValueError(f"chunk_size {settings.chunk_size} must be a multiple of the batch size {batch_size}")
        self.make, self.settings, self.batch_size, self.seed, self.key = make, settings, batch_size, seed, key
        self._number, self._chunk, self._pass, self._order = -1, None, -1, None

    def __call__(self, step: int) -> Chunk:
        s = self.settings
        passes, offset = divmod(step * self.batch_size, s.chunk_size)
        number = passes // s.passes
        if number != self._number:
            self._chunk = None  # frees its memory before the next one is made
            self._number, self._chunk = number, self.make(number)
        if passes != self._pass:
            order = numpy_generator(self.seed, "denoiser order", *self.key, passes).permutation(s.chunk_size)
            self._pass, self._order = passes, torch.from_numpy(order).to(self._chunk.latents.device)
        index = self._order[offset : offset + self.batch_size]
        first = passes % s.passes % s.images_per_caption * s.chunk_size
        return Chunk(self._chunk.latents[first + index], self._chunk.prompt_embeds[index])


class DenoiserTask:
    """E ||target - output||^2 with t uniform; Adam, warm-up, cosine or no decay, exponential moving average.

    The average's horizon is a ninth of the updates made until `ema_decay` bounds it (diffusers' EMAModel).
    """

    def __init__(
        self,
        model: UNet2DConditionModel,
        settings: config.Denoiser,
        round_: config.DenoiserRound,
        schedule: Schedule,
        negative_prompt_embeds: Tensor,  # (tokens, width): the state of the empty prompt, which stands in for dropped captions
    ):
        self.model, self.settings, self.round = model, settings, round_
        self.schedule, self.negative_prompt_embeds = schedule, negative_prompt_embeds
        self.ema = EMAModel(model.parameters(), decay=settings.ema_decay, foreach=True)

    def prepare(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        if accelerator.device.type == "cpu":  # the fused kernel's backward pass is slow there in bfloat16
            self.model.set_attn_processor(AttnProcessor())
        optimizer = make_optimizer(
            self.round.optimizer, self.model.parameters(), self.round.learning_rate, self.round.weight_decay
        )
        self.model, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.ema.to(accelerator.device)
        self.negative_prompt_embeds = self.negative_prompt_embeds.to(accelerator.device)
        self.schedule.to(accelerator.device)
        accelerator.register_for_checkpointing(self.ema)
        self.network = torch.compile(self.model) if self.settings.compile else self.model

    def update(self, batch: Chunk, step: int, draws: Draws) -> dict[str, Tensor]:
        s, r = self.settings, self.round
        set_learning_rate(self.optimizer, learning_rate(step, r.learning_rate, s.warmup, r.updates, r.decay))
        device = self.accelerator.device
        x_0, prompt_embeds = batch.latents.to(device).float(), batch.prompt_embeds.to(device)
        dropped = draws.uniform(len(x_0)) < s.caption_dropout
        prompt_embeds = torch.where(dropped[:, None, None], self.negative_prompt_embeds.to(prompt_embeds.dtype), prompt_embeds)
        t = draws.integers(0, self.schedule.num_timesteps, len(x_0))
        noise = draws.normal(x_0)
        x_t = self.schedule.q(x_0, t).sample(noise)
        with self.accelerator.autocast():
            output = self.network(x_t, t, prompt_embeds if prompt_embeds.is_cuda else prompt_embeds.float()).sample
        target = training_target(x_0, noise, t, self.schedule, r.prediction_type)
        loss = (output.float() - target).square().mean()
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        done = step_where_finite(self.optimizer, self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0))
        if done:
            self.ema.step(self.model.parameters())
        return {"loss": loss} | skipped(done)


@torch.no_grad()
def validation_loss(
    model: UNet2DConditionModel,
    chunk: Chunk,
    schedule: Schedule,
    prediction_type: str,
    seed: int,
    batch_size: int = 256,
) -> float:
    """The training loss on held pairs with fixed noise and evenly spread timesteps."""
    total = 0.0
    rng = torch.Generator().manual_seed(seed)
    n = len(chunk.latents)
    noise = torch.randn(chunk.latents.shape, generator=rng).to(model.device)
    timesteps = torch.from_numpy(np.linspace(0, schedule.num_timesteps - 1, n).round().astype(np.int64)).to(model.device)
    for start in range(0, n, batch_size):
        part = slice(start, start + batch_size)
        x_0 = chunk.latents[part].to(model.device).float()
        x_t = schedule.q(x_0, timesteps[part]).sample(noise[part])
        output = model(x_t, timesteps[part], chunk.prompt_embeds[part].to(model.device, model.dtype)).sample
        target = training_target(x_0, noise[part], timesteps[part], schedule, prediction_type)
        total += float((output.float() - target).square().mean(dim=(1, 2, 3)).sum())
    return total / n
