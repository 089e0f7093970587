"""Control of a frozen denoiser by edges: ControlNet (arXiv 2302.05543) and T2I-Adapter (arXiv 2302.08453).

A control network is trained on the base with the base's own denoising loss. It then steers the one-step generator, which
began as a copy of the base, without being trained with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn

from ufogen import config
from ufogen.applications.edges import edge_map, to_condition
from ufogen.data.encoded import Encoded
from ufogen.diffusion.batch import EncodedBatch
from ufogen.diffusion.prediction import training_target
from ufogen.diffusion.schedule import Schedule
from ufogen.errors import UserError
from ufogen.randomness import Draws
from ufogen.training.learning_rate import learning_rate, set_learning_rate
from ufogen.training.optimizers import skipped, step_where_finite

Control = ControlNetModel | T2IAdapter
KINDS = {"controlnet": ControlNetModel, "adapter": T2IAdapter}


def make_control(kind: str, unet: UNet2DConditionModel, factor: int) -> Control:
    """A control network for `unet`, whose latents are `factor` times smaller than the image: 4 here, 8 in Stable Diffusion.

    The ControlNet is a copy of the U-Net's lower half; all it adds goes through convolutions that are zero at first. It
    reads the image through diffusers' widths 16, 32, 96, 256 as far as the factor needs them, a halving between each two.
    The last convolution of that path, which diffusers sets to zero as well, is not zero here: behind two zeros in a row the
    edges had no effect on the loss after 100 updates.
    """
    levels = round(math.log2(factor))
    if kind == "controlnet":
        widths = (16, 32, 96, 256)
        if 2**levels != factor or not 1 <= levels < len(widths):
            raise UserError(f"the autoencoder's factor is {factor}; a ControlNet can be made for 2, 4 and 8")
        control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths[: levels + 1])
        control.controlnet_cond_embedding.apply(_initialize)
        return control
    return T2IAdapter(in_channels=3, channels=list(unet.config.block_out_channels), num_res_blocks=2, downscale_factor=factor)


def _initialize(module: nn.Module) -> None:
    """He et al. 2015, arXiv 1502.01852: keeps the size of a signal through layers that cut half of it off."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


class ControlledUNet(nn.Module):
    """A denoiser with a control network at its side; called as the denoiser is, so every sampler takes it in its place.

    Parameters
    ----------
    condition: (n, 3, H, W) in [0, 1], one for each latent. A batch that is a multiple of it, as guidance makes, repeats it.
    scale: what the control network adds is multiplied by it; 0 leaves the denoiser as it is.
    """

    def __init__(self, unet: UNet2DConditionModel, control: Control, condition: Tensor, scale: float = 1.0):
        super().__init__()
        self.unet, self.control, self.condition, self.scale = unet, control, condition, scale

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def forward(self, x_t: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        condition = self.condition.repeat(len(x_t) // len(self.condition), 1, 1, 1).to(x_t.dtype)
        extra = residuals(self.control, x_t, t, encoder_hidden_states, condition, self.scale)
        return self.unet(x_t, t, encoder_hidden_states=encoder_hidden_states, return_dict=return_dict, **extra)


def residuals(control: Control, x_t: Tensor, t: Tensor, prompt_embeds: Tensor, condition: Tensor, scale: float = 1.0) -> dict:
    """What a control network adds to the U-Net, as arguments of diffusers' `UNet2DConditionModel`.

    A ControlNet sees the noisy latent, the timestep and the caption as well; an adapter sees the condition alone.
    """
    if isinstance(control, ControlNetModel):
        down, middle = control(x_t, t, prompt_embeds, condition, conditioning_scale=scale, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return {"down_intrablock_additional_residuals": [scale * feature for feature in control(condition)]}


@dataclass
class ControlBatch(EncodedBatch):
    """Encoded pairs with the edges of their images, (b, H, W) bool."""

    edges: np.ndarray


class EncodedWithEdges(Encoded):
    """The encoded pairs and the edges of their images (n, H, W, 3) uint8; called with an update's number."""

    def __init__(self, folder: str | Path, images: np.ndarray, batch_size: int, seed: int):
        super().__init__(folder, batch_size, seed)
        if len(images) != len(self):
            raise UserError(f"encoded data in {folder} is of {len(self)} images, not of {len(images)}: run `dvc repro encode`")
        self.images = images

    def __call__(self, step: int) -> ControlBatch:
        batch, index = super().__call__(step), self.order(step)
        return ControlBatch(batch.latents, batch.prompt_embeds, edge_map(self.images[index]))


class ControlTask:
    """E ||target - output||^2 over the control network's weights, the denoiser's stay; Adam, warm-up, cosine decay."""

    def __init__(
        self,
        control: Control,
        unet: UNet2DConditionModel,
        settings: config.Applications,
        training: config.ControlTraining,
        schedule: Schedule,
        prediction_type: str,
        empty_state: Tensor,  # (tokens, width): the state of the empty prompt, which stands in for dropped captions
    ):
        self.control, self.unet = control.train(), unet.requires_grad_(False).eval()
        self.settings, self.training = settings, training
        self.schedule, self.prediction_type, self.empty_state = schedule, prediction_type, empty_state

    def prepare(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        optimizer = torch.optim.Adam(self.control.parameters(), lr=self.training.learning_rate, fused=True)
        self.control, self.optimizer = accelerator.prepare(self.control, optimizer)
        self.unet.to(accelerator.device)
        self.schedule.to(accelerator.device)
        self.empty_state = self.empty_state.to(accelerator.device)

    def update(self, batch: ControlBatch, step: int, draws: Draws) -> dict[str, Tensor]:
        s, tr = self.settings, self.training
        set_learning_rate(self.optimizer, learning_rate(step, tr.learning_rate, s.warmup, tr.updates))
        device = self.accelerator.device
        x_0, prompt_embeds = batch.latents.to(device).float(), batch.prompt_embeds.to(device).float()
        dropped = draws.uniform(len(x_0)) < s.caption_dropout
        prompt_embeds = torch.where(dropped[:, None, None], self.empty_state, prompt_embeds)
        t = timesteps(draws.uniform(len(x_0)), s.timesteps, self.schedule.num_timesteps)
        noise = draws.normal(x_0)
        x_t = self.schedule.q(x_0, t).sample(noise)
        with self.accelerator.autocast():
            extra = residuals(self.control, x_t, t, prompt_embeds, to_condition(batch.edges, device))
            output = self.unet(x_t, t, encoder_hidden_states=prompt_embeds, return_dict=False, **extra)[0]
        target = training_target(x_0, noise, t, self.schedule, self.prediction_type)
        loss = (output.float() - target).square().mean()
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        done = step_where_finite(self.optimizer, self.accelerator.clip_grad_norm_(self.control.parameters(), 1.0))
        return {"loss": loss} | skipped(done)


def timesteps(uniform: Tensor, law: str, num_timesteps: int) -> Tensor:
    """Timesteps int64 from numbers uniform in [0, 1): `uniform`, or `cubic`, (1 - u^3) T, which T2I-Adapter draws.

    The cubic law puts 46 % of the draws into the last tenth, where structure is decided and one-step sampling starts.
    """
    share = uniform if law == "uniform" else 1 - uniform**3
    return (share * num_timesteps).long().clamp(max=num_timesteps - 1)
