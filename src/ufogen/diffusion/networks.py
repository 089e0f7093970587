"""Generator and discriminator, both made from one pretrained U-Net."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from ufogen import config
from ufogen.config import Heads
from ufogen.diffusion.prediction import predict_x_0
from ufogen.diffusion.schedule import Schedule

HEAD_WIDTH, HEAD_GROUPS = 64, 8  # of the heads at every level
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
    """D(x_s, s, c) -> logits (b, heads, h, w): the whole U-Net with a new zero-initialised head.

    Every position of the map is a decision between real and fake, as Figure 3 of the paper draws it. With the zero head
    training starts at the equilibrium value of the loss. Clean data, s = -1, goes in under timestep 0. A joint
    discriminator, as DDGAN's, sees x_t beside x_s; its new input weights are zero too.

    What follows is not the paper's.

    heads: with `both` a second map from the bottleneck, which sees the item as a whole, as in the U-Net discriminator of
        Schoenfeld et al. (2020, arXiv 2002.12655); with `levels` one from every block, of two convolutions each, as on
        the features of a pretrained network (SF-V, arXiv 2406.04324; LADD, arXiv 2403.12015).
    trained: with `heads` these alone, on the pretrained U-Net as it is.
    statistics_group: so many items show the heads how far they differ, see `Deviation`; 0: none.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        joint: bool = False,
        heads: Heads = "output",
        trained: Literal["all", "heads"] = "all",
        statistics_group: int = 0,
    ):
        super().__init__()
        self.joint = joint
        if trained == "heads":
            unet.requires_grad_(False)
        if joint:
            unet.conv_in = _widened(unet.conv_in)
        out = unet.conv_out
        unet.conv_out = _logits(out.in_channels, statistics_group, out.kernel_size, out.padding)
        if heads != "output":  # inside the U-Net, so that whatever divides or wraps its weights has these too
            unet.further_heads = _further_heads(unet, heads, statistics_group)
        unet.set_attn_processor(AttnProcessor())  # R1 differentiates twice, which the fused attention kernels cannot
        self.unet = unet

    def new_parts(self) -> list[nn.Module]:
        """What the pretrained U-Net did not have, or not in this shape."""
        parts = [self.unet.conv_out, *([self.unet.conv_in] if self.joint else [])]
        return [*parts, *getattr(self.unet, "further_heads", {}).values()]

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
        with self._with_further_heads(maps):
            output = self.unet(x_s, s.clamp(min=0), encoder_hidden_states=prompt_embeds, return_dict=False, **further)[0]
        # a mean over the map, as the losses take, weighs the heads equally
        maps = [F.interpolate(logits, output.shape[-2:], mode="nearest") for logits in maps]
        return torch.cat([*maps, output], dim=1).float()

    @contextlib.contextmanager
    def _with_further_heads(self, maps: list[Tensor]) -> Iterator[None]:
        """Within it a pass of the U-Net appends the logits of the heads behind its blocks, where there are any."""

        def behind(head: nn.Module) -> Callable:
            def hook(block: nn.Module, inputs: tuple, hidden: Tensor | tuple) -> None:
                maps.append(head(hidden[0] if isinstance(hidden, tuple) else hidden))  # a down block returns its skips too

            return hook

        heads = getattr(self.unet, "further_heads", {}).items()
        hooks = [self.unet.get_submodule(_place(name)).register_forward_hook(behind(head)) for name, head in heads]
        try:
            yield
        finally:
            for hook in hooks:
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
    tuned: UNet2DConditionModel | None = None,
) -> tuple[Generator, Discriminator]:
    """Both networks from copies of one pretrained denoiser, which is left as it is, or one or both from scratch.

    tuned: the denoiser that G starts from where the objective asks for it.
    """

    def network(init: str) -> UNet2DConditionModel:
        if init == "scratch":
            return UNet2DConditionModel.from_config(unet.config).train()
        return copy.deepcopy(tuned if init == "tuned" else unet).train()

    generator = Generator(network(objective.generator_init), schedule, prediction_type)
    return generator, make_discriminator(network(objective.discriminator_init), objective)


def make_discriminator(unet: UNet2DConditionModel, objective: config.Objective) -> Discriminator:
    """The discriminator that the objective asks for, of a U-Net that becomes part of it."""
    o = objective
    joint = o.discriminator_input == "joint"
    return Discriminator(unet, joint, o.discriminator_heads, o.discriminator_trained, o.statistics_group)


class Deviation(nn.Module):
    """Append to hidden states (n, c, h, w) a channel that says how far items differ: their standard deviation over groups of
    consecutive items, averaged over channels and positions (Karras et al. 2018, arXiv 1710.10196, section 3).

    A discriminator that sees one item cannot see that modes are missing. `size` divides the number of items, and half of it
    where real and generated ones come together.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, hidden: Tensor) -> Tensor:
        groups = hidden.float().unflatten(0, (-1, self.size))  # (n / size, size, c, h, w)
        deviation = (groups.var(dim=1, correction=0) + 1e-8).sqrt().flatten(1).mean(dim=1)
        channel = deviation.repeat_interleave(self.size).to(hidden.dtype).reshape(-1, 1, 1, 1)
        return torch.cat([hidden, channel.expand(-1, -1, *hidden.shape[-2:])], dim=1)


def _logits(channels: int, statistics_group: int, kernel_size: int = 3, padding: int = 1) -> nn.Module:
    """The zero convolution to one logit a position."""
    conv = nn.Conv2d(channels + (statistics_group > 0), 1, kernel_size, padding=padding)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(Deviation(statistics_group), conv) if statistics_group else conv


def _further_heads(unet: UNet2DConditionModel, heads: Heads, statistics_group: int) -> nn.ModuleDict:
    """Heads behind the bottleneck or behind every block: normalisation and activation as at the U-Net's output, logits."""
    settings, widths = unet.config, unet.config.block_out_channels
    places = {"mid_block": widths[-1]}
    if heads == "levels":
        places = {f"down_blocks/{i}": width for i, width in enumerate(widths)} | places
        places |= {f"up_blocks/{i}": width for i, width in enumerate(reversed(widths))}

    def head(channels: int) -> nn.Sequential:
        layers = [nn.GroupNorm(settings.norm_num_groups, channels, eps=settings.norm_eps), nn.SiLU()]
        if heads == "levels":
            layers += [nn.Conv2d(channels, HEAD_WIDTH, 3, padding=1), nn.GroupNorm(HEAD_GROUPS, HEAD_WIDTH), nn.SiLU()]
        return nn.Sequential(*layers, _logits(HEAD_WIDTH if heads == "levels" else channels, statistics_group))

    return nn.ModuleDict({name: head(channels) for name, channels in places.items()})


def _place(name: str) -> str:
    """`down_blocks/0`, as a key of a ModuleDict, which has no dots, to the submodule's path."""
    return name.replace("/", ".")


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
