"""Two networks divided over the processes with torch's `fully_shard` (FSDP2); accelerate's plugin for it takes one network.

`fully_shard` gathers the weights of a block for its passes, and averages and divides its gradients after the backward pass.
The optimizer, the average and the checkpoint are elementwise: they see the shards of this process as plain tensors.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from ufogen import config
from ufogen.diffusion.networks import Discriminator, Generator, trainable, without_gradients
from ufogen.errors import UserError

BLOCKS = (ResnetBlock2D, BasicTransformerBlock, Downsample2D, Upsample2D)  # gathered one at a time; the rest with the U-Net


def check(trainer: config.Trainer, accelerator: Accelerator) -> None:
    """Raise `UserError` for settings that do not go with the sharding asked for."""
    if trainer.sharding == "none":
        return
    found = f"with trainer.sharding {trainer.sharding}"
    if accelerator.num_processes == 1:
        raise UserError(f"parameter trainer.sharding is {trainer.sharding}; allowed with one process: none")
    if trainer.compile:
        raise UserError(f"parameter trainer.compile is True; allowed {found}: false")
    if trainer.optimizer != "adam":  # nobody has tried the blocks of 8 bits on shards
        raise UserError(f"parameter trainer.optimizer is {trainer.optimizer}; allowed {found}: adam")
    if trainer.precision == "fp16":  # its gradients are scaled, which accelerate undoes in optimizers of its own alone
        raise UserError(f"parameter trainer.precision is fp16; allowed {found}: no, bf16")


class Sharded:
    """A network whose weights and gradients are divided over the processes, in place.

    All processes must start from the same weights, as no process sends its own. Gradients are averaged over the processes
    and divided at every backward pass, also between micro-batches: none is ever kept whole.

    Attributes
    ----------
    trained: this process's shards of the trained weights: plain tensors that share their memory.
    """

    def __init__(self, network: Generator | Discriminator, accelerator: Accelerator, mode: str):
        """`mode` full: a block's weights are freed after each of its passes. zero2: kept from forward to backward pass."""
        self.network, self.accelerator, self.full = network, accelerator, mode == "full"
        self._empty = _without_memory(network)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for module in list(network.unet.modules()):
            if isinstance(module, BLOCKS):
                fully_shard(module, mesh=mesh, reshard_after_forward=self.full)
        fully_shard(network.unet, mesh=mesh, reshard_after_forward=False)
        self._modules = [module for module in network.modules() if isinstance(module, FSDPModule)]
        self._gathered = self._gathered_weights()
        self._named = dict(network.named_parameters())
        self._weights = trainable(network)
        self.trained = [nn.Parameter(weight.to_local().detach()) for weight in self._weights]

    def take_gradients(self, clip: float) -> None:
        """Move the gradients to `trained`, with their norm over all processes clipped where `clip` is not 0."""
        for shard, weight in zip(self.trained, self._weights, strict=True):
            shard.grad = None if weight.grad is None else weight.grad.to_local()
            weight.grad = None
        if clip:
            gradients = [shard.grad for shard in self.trained if shard.grad is not None]
            squared = nn.utils.get_total_norm(gradients, foreach=True).square()
            norm = self.accelerator.reduce(squared, "sum").sqrt()
            nn.utils.clip_grads_with_norm_(self.trained, clip, norm, foreach=True)

    def frozen(self) -> contextlib.AbstractContextManager[None]:
        """As `networks.frozen`, also for the weights that are gathered within it, which are parameters of their own."""
        return without_gradients([*self._weights, *self._gathered])

    @contextlib.contextmanager
    def kept_whole(self) -> Iterator[None]:
        """Within it gathered weights stay: a second differentiation needs them before a hook would gather them again."""
        for module in self._modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.set_reshard_after_backward(False, recurse=False)
        try:
            yield
        finally:
            for module in self._modules:
                module.set_reshard_after_forward(self.full and module is not self.network.unet, recurse=False)
                module.set_reshard_after_backward(True, recurse=False)
                module.reshard()

    @contextlib.contextmanager
    def whole(self) -> Iterator[Generator | Discriminator | None]:
        """On the main process an undivided copy of the network, None on the others. All must enter."""
        state = {}
        for name, weight in self._named.items():
            tensor = weight.detach().full_tensor()
            if self.accelerator.is_main_process:
                state[name] = tensor
        if not state:
            yield None
            return
        self._empty.load_state_dict(state, assign=True)
        del state, tensor
        try:
            yield self._empty
        finally:
            self._empty.to("meta")

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        return {"trained": [shard.detach() for shard in self.trained]}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        with torch.no_grad():
            for shard, value in zip(self.trained, state["trained"], strict=True):
                shard.copy_(value)

    def _gathered_weights(self) -> list[nn.Parameter]:
        """The trained weights as a block's passes see them. `fully_shard` makes these parameters once and only fills them."""
        found = []
        for module in self._modules:
            module.unshard()
            found += [weight for weight in trainable(module) if not isinstance(weight, DTensor)]
            module.reshard()
        return found


class Stateful(Protocol):
    """What a checkpoint keeps of a process."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def register(accelerator: Accelerator, **parts: Stateful) -> None:
    """Have each process write its share of `parts` into accelerate's checkpoints, and read it from them."""
    name = f"shard-{accelerator.process_index:05d}.pt"

    def save(models: list, weights: list, folder: str) -> None:
        torch.save({key: part.state_dict() for key, part in parts.items()}, Path(folder) / name)

    def load(models: list, folder: str) -> None:
        state = torch.load(Path(folder) / name, map_location="cpu", weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(state[key])

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _without_memory(network: Generator | Discriminator) -> Generator | Discriminator:
    """A copy on the meta device."""
    empty = copy.deepcopy(network).to("meta")
    if isinstance(network, Generator):
        empty.schedule = network.schedule
    return empty
