"""What G and D keep in memory and compute in an update, found by running them as fake tensors or as real ones.

Fake tensors (torch's FakeTensorMode) have shapes and types and no numbers, so that Stable Diffusion's U-Net runs on a laptop.
Activations are what autograd keeps for the backward pass, each storage counted once; short-lived temporaries are not in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ufogen import config
from ufogen.diffusion.losses import r1_penalty
from ufogen.diffusion.networks import added_conditioning, frozen, make_discriminator

FLOAT32 = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax}  # under autocast on CUDA, not on the CPU
CHECKPOINTED = (ResnetBlock2D, BasicTransformerBlock)  # what diffusers recomputes as one piece


@dataclass(frozen=True)
class Kept:
    """Bytes that a pass keeps: `fixed` (weights in half precision) and for each item, and the largest recomputed piece."""

    fixed: float
    item: float
    piece: float = 0.0  # of an item

    def at(self, batch: int) -> float:
        return self.fixed + (self.item + self.piece) * batch


class Saved:
    """The storages that autograd saves for the backward pass while it is entered, those of `left_out` aside."""

    def __init__(self, *left_out: nn.Module):
        self._left_out = {p.untyped_storage()._cdata for network in left_out for p in network.parameters()}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self.bytes = 0

    def __enter__(self) -> Saved:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._left_out and storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage  # held, so that its identity is not given to another
            self.bytes += storage.nbytes()
        return tensor


class CudaAutocast(TorchFunctionMode):
    """Lets autocast on the CPU keep in float32 what autocast on CUDA does."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in FLOAT32:
            args, kwargs = tree_map_only(Tensor, lambda x: x.float() if x.is_floating_point() else x, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def autocast(half: bool) -> Iterator[None]:
    """Mixed precision as on a GPU, or none."""
    if not half:
        yield
        return
    with torch.autocast("cpu", torch.bfloat16), CudaAutocast():
        yield


class Networks:
    """G's and D's U-Net with the passes of an update over them. Real or fake, by the mode they are made in."""

    def __init__(self, architecture: dict[str, Any], tokens: int, objective: config.Objective):
        self.generator = UNet2DConditionModel.from_config(architecture).train()
        self.discriminator = make_discriminator(UNet2DConditionModel.from_config(architecture).train(), objective)
        u = self.generator.config
        self.shape, self.states = (u.in_channels, u.sample_size, u.sample_size), (tokens, u.cross_attention_dim)
        sdxl = u.addition_embed_type == "text_time"
        self.pooled = u.projection_class_embeddings_input_dim - 6 * u.addition_time_embed_dim if sdxl else None

    def inputs(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn(batch, *self.shape), torch.full((batch,), 500), torch.randn(batch, *self.states)

    def pooled_states(self, batch: int) -> Tensor | None:
        return None if self.pooled is None else torch.randn(batch, self.pooled)

    def generate(self, batch: int) -> Tensor:
        """G on the batch."""
        x, t, states = self.inputs(batch)
        return self.generator(x, t, states, return_dict=False, **added_conditioning(x, self.pooled_states(batch)))[0]

    def discriminate(self, batch: int) -> Tensor:
        """D on as many real and fake items."""
        return self._decide(*self.inputs(2 * batch))

    def judge(self, batch: int) -> Tensor:
        """D, frozen, on G's output."""
        x, t, states = self.inputs(batch)
        with frozen(self.discriminator):
            return self._decide(x.requires_grad_(), t, states)

    def decide_for_penalty(self, batch: int) -> tuple[Tensor, Tensor]:
        """D on real items whose gradient R1 takes."""
        x, t, states = self.inputs(batch)
        return self._decide(x.requires_grad_(), t, states), x

    def _decide(self, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        return self.discriminator(x, t, states, x if self.discriminator.joint else None, self.pooled_states(len(x)))


def activations(networks: Networks, half: bool) -> dict[str, dict[str, Kept]]:
    """What each pass of an update keeps: `all` of it, or with gradient checkpointing (`checkpointed`).

    Checkpointed, a pass keeps the inputs of the pieces and, while it goes back, one piece. R1 differentiates the recomputed
    pieces again, so checkpointing does not help it.
    """

    def penalty(batch: int) -> Tensor:
        logits, x = networks.decide_for_penalty(batch)
        return r1_penalty(logits, x)

    passes = {
        "generator": networks.generate,
        "discriminator": networks.discriminate,
        "discriminator_for_generator": networks.judge,
    }
    whole = {name: [kept_bytes(networks, run, n, half) for n in (1, 2)] for name, run in passes.items()}
    with _checkpointing(networks):
        parts = {name: [kept_bytes(networks, run, n, half)[0] for n in (1, 2)] for name, run in passes.items()}
    (one, _), (two, _) = (kept_bytes(networks, penalty, n, half) for n in (1, 2))
    r1 = {"penalty": Kept(2 * one - two, two - one)}
    found = {name: Kept(2 * one - two, two - one) for name, ((one, _), (two, _)) in whole.items()}
    recomputed = {
        name: Kept(2 * one - two, two - one, max(b - a for a, b in zip(whole[name][0][1], whole[name][1][1], strict=True)))
        for name, (one, two) in parts.items()
    }
    return {"all": found | r1, "checkpointed": recomputed | r1}


def kept_bytes(networks: Networks, run: Callable[[int], Tensor], batch: int, half: bool) -> tuple[int, list[int]]:
    """Bytes that autograd keeps of a pass, and of each piece that checkpointing would recompute, in the order they run."""
    saved, found, started = Saved(networks.generator, networks.discriminator), [], {}
    pieces = [m for n in (networks.generator, networks.discriminator) for m in n.modules() if isinstance(m, CHECKPOINTED)]
    handles = [m.register_forward_pre_hook(lambda m, _: started.update({m: saved.bytes})) for m in pieces]
    handles += [m.register_forward_hook(lambda m, *_: found.append(saved.bytes - started[m])) for m in pieces]
    with saved, autocast(half):
        result = run(batch)
    del result  # it held the graph
    for handle in handles:
        handle.remove()
    return saved.bytes, found


@contextlib.contextmanager
def _checkpointing(networks: Networks) -> Iterator[None]:
    unets = (networks.generator, networks.discriminator.unet)
    for unet in unets:
        unet.enable_gradient_checkpointing()
    yield
    for unet in unets:
        unet.disable_gradient_checkpointing()


def flops(networks: Networks) -> dict[str, int]:
    """FLOPs of an item in each pass, forward and backward; a multiply-add is two. Attention counts as its two products."""
    networks.generator.set_attn_processor(AttnProcessor())  # the fused kernels have no formula on the CPU
    found = {}
    for name, run in (("generator", networks.generate), ("discriminator", networks.discriminate)):
        with FlopCounterMode(display=False) as counter:
            output = run(1)
        found[f"{name}_forward"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            output.sum().backward()
        found[f"{name}_backward"] = counter.get_total_flops()
    one = found["discriminator_forward"] // 2
    with FlopCounterMode(display=False) as counter:
        networks.judge(1).sum().backward()
    found["discriminator_for_generator"] = counter.get_total_flops()
    logits, x = networks.decide_for_penalty(1)
    with FlopCounterMode(display=False) as counter:  # not around the forward pass: its hooks do not allow autograd.grad
        r1_penalty(logits, x).backward()
    found["penalty"] = one + counter.get_total_flops()
    return found
