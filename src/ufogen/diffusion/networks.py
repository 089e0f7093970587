"""Generator and discriminator, both made from one pretrained U-Net."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from ufogen import config
from ufogen.config import Heads
from ufogen.diffusion.prediction import predict_x_0
from ufogen.diffusion.schedule import Schedule

VAE_FACTOR = 8  # pixels a latent position of SDXL stands for on each side; base/loading.py refuses others


class Generator(nn.Module):
    """G(x_t, t, c) -> x'_0: the pretrained denoiser with its output converted to the clean sample.

    It has no latent variable: given x_t, t and c it is deterministic, as in the paper.
    """

    def __init__(self, unet: UNet2DConditionModel, schedule: Schedule, prediction_type: str):
        super().__init__()
        self.unet, self.schedule, self.prediction_type = unet, schedule, prediction_type

    def forward(self, x_t: Tensor, t: Tensor, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor | None = None) -> Tensor:
        """x_t (b, c, h, w), t (b,) int64, token states (b, tokens, width) -> x'_0 (b, c, h, w) float32.

        SDXL's U-Net takes the caption's pooled state (b, p) too.
        """
        dtype = self.unet.dtype  # half precision when sampling; under autocast the weights stay float32
        further = added_conditioning(x_t, None if pooled_prompt_embeds is None else pooled_prompt_embeds.to(dtype))
        output = self.unet(x_t.to(dtype), t, encoder_hidden_states=prompt_embeds.to(dtype), return_dict=False, **further)[0]
        return predict_x_0(output, x_t, t, self.schedule, self.prediction_type)


class Discriminator(nn.Module):
    """D(x_s, s, c) -> logits (b, 1, h, w): the whole U-Net with a new zero-initialised head.

    Every position of the map is a decision between real and fake, as Figure 3 of the paper draws it. With the zero head
    training starts at the equilibrium value of the loss. Clean data, s = -1, goes in under timestep 0. A joint
    discriminator, as DDGAN's, sees x_t beside x_s; its new input weights are zero too.

    With `heads` both there is a second map, from the bottleneck, which sees the item as a whole: logits (b, 2, h, w), as in
    the U-Net discriminator of Schoenfeld et al. (2020, arXiv 2002.12655). It is not the paper's.
    """

    def __init__(self, unet: UNet2DConditionModel, joint: bool = False, heads: Heads = "output"):
        super().__init__()
        self.joint = joint
        if joint:
            unet.conv_in = _widened(unet.conv_in)
        head = nn.Conv2d(unet.conv_out.in_channels, 1, unet.conv_out.kernel_size, padding=unet.conv_out.padding)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        unet.conv_out = head
        if heads == "both":  # inside the U-Net, so that whatever divides or wraps its weights has these too
            unet.bottleneck_head = _bottleneck_head(unet)
        unet.set_attn_processor(AttnProcessor())  # R1 differentiates twice, which the fused attention kernels cannot
        self.unet = unet

    def forward(
        self,
        x_s: Tensor,
        s: Tensor,
        prompt_embeds: Tensor,
        x_t: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
    ) -> Tensor:
        """x_s and x_t (b, c, h, w), s (b,) int64, token states (b, tokens, width) -> logits (b, heads, h, w) float32.

        SDXL's U-Net takes the caption's pooled state (b, p) too.
        """
        if self.joint:
            x_s = torch.cat([x_s, x_t], dim=1)
        further = added_conditioning(x_s, pooled_prompt_embeds)
        maps: list[Tensor] = []
        with self._at_bottleneck(maps):
            output = self.unet(x_s, s.clamp(min=0), encoder_hidden_states=prompt_embeds, return_dict=False, **further)[0]
        # a mean over the map, as the losses take, weighs both heads equally
        maps = [F.interpolate(logits, output.shape[-2:], mode="nearest") for logits in maps]
        return torch.cat([*maps, output], dim=1).float()

    @contextlib.contextmanager
    def _at_bottleneck(self, maps: list[Tensor]) -> Iterator[None]:
        """Within it a pass of the U-Net appends the logits of the head at its bottleneck, where there is one."""
        head = getattr(self.unet, "bottleneck_head", None)
        if head is None:
            yield
            return
        hook = self.unet.mid_block.register_forward_hook(lambda block, inputs, hidden: maps.append(head(hidden)))
        try:
            yield
        finally:
            hook.remove()


def added_conditioning(x: Tensor, pooled_prompt_embeds: Tensor | None) -> dict[str, dict[str, Tensor]]:
    """What an SDXL U-Net is told of a picture beside its token states; nothing where there is no pooled state (b, p).

    Its micro-conditioning (arXiv 2307.01952, section 2.2) is the original size, the crop's corner and the target size. Its
    own training varied them; here they are constant, as in diffusers' pipeline without further arguments: a square cut from
    its upper left corner at the size of x (b, c, h, w), so they are derived from x and are in no batch.
    """
    if pooled_prompt_embeds is None:
        return {}
    size = [VAE_FACTOR * side for side in x.shape[-2:]]
    time_ids = torch.tensor([*size, 0, 0, *size], dtype=torch.float32, device=x.device)
    return {"added_cond_kwargs": {"text_embeds": pooled_prompt_embeds, "time_ids": time_ids.expand(len(x), -1)}}


def make_networks(
    unet: UNet2DConditionModel,
    schedule: Schedule,
    prediction_type: str,
    objective: config.Objective,
) -> tuple[Generator, Discriminator]:
    """Both networks from copies of one pretrained denoiser, which is left as it is, or one or both from scratch."""

    def network(init: str) -> UNet2DConditionModel:
        return (copy.deepcopy(unet) if init == "base" else UNet2DConditionModel.from_config(unet.config)).train()

    generator = Generator(network(objective.generator_init), schedule, prediction_type)
    joint, heads = objective.discriminator_input == "joint", objective.discriminator_heads
    discriminator = Discriminator(network(objective.discriminator_init), joint, heads)
    return generator, discriminator


def _bottleneck_head(unet: UNet2DConditionModel) -> nn.Sequential:
    """Normalisation, activation and convolution as at the U-Net's output, the convolution zero."""
    channels, settings = unet.config.block_out_channels[-1], unet.config
    conv = nn.Conv2d(channels, 1, 3, padding=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.GroupNorm(settings.norm_num_groups, channels, eps=settings.norm_eps), nn.SiLU(), conv)


def _widened(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with as many input channels again, whose weights are zero."""
    wide = nn.Conv2d(2 * conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : conv.in_channels] = conv.weight
        wide.bias.copy_(conv.bias)
    return wide


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The weights that are trained: all, or the adapters and what stands beside them."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def frozen(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Within it the network's weights take no gradient, while gradients still flow through it to its input."""
    return without_gradients(trainable(network))


@contextlib.contextmanager
def without_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Within it the parameters, which require a gradient, take none."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
