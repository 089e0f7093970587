"""Generator and discriminator, both made from one pretrained U-Net."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from ufogen.prediction import predict_x_0
from ufogen.schedule import Schedule


class Generator(nn.Module):
    """G(x_t, t, c) -> x'_0: the pretrained denoiser with its output converted to the clean sample.

    It has no latent variable: given x_t, t and c it is deterministic, as in the paper.
    """

    def __init__(self, unet: UNet2DConditionModel, schedule: Schedule, prediction_type: str):
        super().__init__()
        self.unet, self.schedule, self.prediction_type = unet, schedule, prediction_type

    def forward(self, x_t: Tensor, t: Tensor, states: Tensor) -> Tensor:
        """x_t (b, c, h, w), t (b,) int64, token states (b, tokens, width) -> x'_0 (b, c, h, w) float32."""
        output = self.unet(x_t, t, encoder_hidden_states=states, return_dict=False)[0]
        return predict_x_0(output, x_t, t, self.schedule, self.prediction_type)


class Discriminator(nn.Module):
    """D(x_s, s, c) -> logits (b, 1, h, w): the whole U-Net with a new zero-initialised head.

    Every position of the map is a decision between real and fake, as Figure 3 of the paper draws it. With the zero head
    training starts at the equilibrium value of the loss. Clean data, s = -1, goes in under timestep 0.
    """

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        head = nn.Conv2d(unet.conv_out.in_channels, 1, unet.conv_out.kernel_size, padding=unet.conv_out.padding)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        unet.conv_out = head
        unet.set_attn_processor(AttnProcessor())  # R1 differentiates twice, which the fused attention kernels cannot
        self.unet = unet

    def forward(self, x_s: Tensor, s: Tensor, states: Tensor) -> Tensor:
        """x_s (b, c, h, w), s (b,) int64, token states (b, tokens, width) -> logits (b, 1, h, w) float32."""
        return self.unet(x_s, s.clamp(min=0), encoder_hidden_states=states, return_dict=False)[0].float()


def make_networks(unet: UNet2DConditionModel, schedule: Schedule, prediction_type: str) -> tuple[Generator, Discriminator]:
    """Both networks from copies of one pretrained denoiser, which is left as it is."""
    generator = Generator(copy.deepcopy(unet).train(), schedule, prediction_type)
    discriminator = Discriminator(copy.deepcopy(unet).train())
    return generator, discriminator


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within it the network's weights take no gradient, while gradients still flow through it to its input."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
