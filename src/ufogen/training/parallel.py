"""A network in training behind one interface, whether each process has it whole or a share of it.

Whole, accelerate keeps the processes' copies equal (DistributedDataParallel). Shared, torch's `fully_shard` (FSDP2) divides
it; accelerate's plugin for that takes one network, and here are two. `fully_shard` gathers the weights of a block for its
passes, and averages and divides its gradients after the backward pass. The optimizer, the average and the checkpoint are
elementwise: they see the shards of this process as plain tensors.
"""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ufogen import config
from ufogen.diffusion.networks import Discriminator, Generator, frozen, trainable, without_gradients
from ufogen.errors import UserError

Network = Generator | Discriminator
Pass = Callable[..., Tensor]  # a pass of a network
BLOCKS = (ResnetBlock2D, BasicTransformerBlock, Downsample2D, Upsample2D)  # gathered one at a time; the rest with the U-Net


class Stateful(Protocol):
    """What a checkpoint keeps of a process."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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


def make_parallel(network: Network, accelerator: Accelerator, settings: config.Trainer) -> Parallel:
    """The network as `settings` say, in place. Raises `UserError` for settings that do not go with the sharding asked for."""
    check(settings, accelerator)
    if accelerator.device.type == "cpu":  # the fused kernel's backward pass is slow there in bfloat16
        network.unet.set_attn_processor(AttnProcessor())
    if settings.gradient_checkpointing:
        network.unet.enable_gradient_checkpointing()
    if settings.sharding != "none":
        return Sharded(network, accelerator, settings.sharding)
    if settings.compile:  # in place, so that every pass has it, that of D in G's loss too
        network.unet.compile_repeated_blocks()
    return Whole(network, accelerator, settings.compile)


class Parallel(ABC):
    """What the trainer asks of a network. Called, it makes a pass under autocast.

    Attributes
    ----------
    network: what is trained.
    trained: the weights that this process optimizes.
    """

    trained: list[nn.Parameter]

    def __init__(self, network: Network, accelerator: Accelerator):
        self.network, self.accelerator = network, accelerator

    def __call__(self, *inputs: Tensor, **caption: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return self.network(*inputs, **caption)

    @abstractmethod
    def prepare(self, name: str, optimizer: Optimizer, **kept: Stateful) -> Optimizer:
        """The optimizer of `trained`, which checkpoints keep from now on under `name`, as they do the weights and `kept`."""

    @abstractmethod
    def more_to_come(self) -> AbstractContextManager[None]:
        """Round a micro-batch that is not the last: its gradients can wait before processes exchange them."""

    @abstractmethod
    def take_gradients(self, clip: float) -> Tensor:
        """Bring the gradients to `trained`, clipped where `clip` is not 0, and return their norm over all processes."""

    @abstractmethod
    def frozen(self) -> AbstractContextManager[Pass]:
        """Within it a pass whose gradient reaches the input and not the weights. It holds the backward pass too."""

    @abstractmethod
    def twice_differentiable(self) -> AbstractContextManager[Pass]:
        """Within it a pass whose gradient can be differentiated again. It holds every pass and the backward pass."""

    @abstractmethod
    def whole(self) -> AbstractContextManager[Network | None]:
        """The undivided network; sharded a copy on the main process, None on the others, and all must enter."""


class Whole(Parallel):
    """Each process has the whole network."""

    def __init__(self, network: Network, accelerator: Accelerator, compiled: bool):
        super().__init__(network, accelerator)
        self.compiled, self.trained = compiled, trainable(network)
        self.exchanging = accelerator.prepare(network)  # the network itself where there is one process

    def __call__(self, *inputs: Tensor, **caption: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return self.exchanging(*inputs, **caption)

    def prepare(self, name: str, optimizer: Optimizer, **kept: Stateful) -> Optimizer:
        self.accelerator.register_for_checkpointing(*kept.values())
        return self.accelerator.prepare(optimizer)

    def more_to_come(self) -> AbstractContextManager[None]:
        return self.accelerator.no_sync(self.exchanging)

    def take_gradients(self, clip: float) -> Tensor:
        if clip:
            return self.accelerator.clip_grad_norm_(self.trained, clip)
        return nn.utils.get_total_norm([weight.grad for weight in self.trained if weight.grad is not None], foreach=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Pass]:
        with frozen(self.network):
            yield super().__call__  # without an exchange of gradients, as there are none

    @contextlib.contextmanager
    def twice_differentiable(self) -> Iterator[Pass]:
        yield self._eagerly if self.compiled else self

    def _eagerly(self, *inputs: Tensor, **caption: Tensor) -> Tensor:
        with torch.compiler.set_stance("force_eager"):
            return self(*inputs, **caption)

    @contextlib.contextmanager
    def whole(self) -> Iterator[Network]:
        yield self.network


class Sharded(Parallel):
    """Weights and gradients are divided over the processes; `trained` are this process's shards, which share their memory.

    All processes must start from the same weights, as no process sends its own. Gradients are averaged over the processes
    and divided at every backward pass, also between micro-batches: none is ever kept whole.
    """

    def __init__(self, network: Network, accelerator: Accelerator, mode: str):
        """`mode` full: a block's weights are freed after each of its passes. zero2: kept from forward to backward pass."""
        super().__init__(network, accelerator)
        self.full = mode == "full"
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

    def prepare(self, name: str, optimizer: Optimizer, **kept: Stateful) -> Optimizer:
        _keep(self.accelerator, name, {"weights": self, "optimizer": optimizer} | kept)
        return optimizer

    def more_to_come(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def take_gradients(self, clip: float) -> Tensor:
        for shard, weight in zip(self.trained, self._weights, strict=True):
            shard.grad = None if weight.grad is None else weight.grad.to_local()
            weight.grad = None
        gradients = [shard.grad for shard in self.trained if shard.grad is not None]
        squared = nn.utils.get_total_norm(gradients, foreach=True).square()
        norm = self.accelerator.reduce(squared, "sum").sqrt()
        if clip:
            nn.utils.clip_grads_with_norm_(self.trained, clip, norm, foreach=True)
        return norm

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Pass]:
        with without_gradients([*self._weights, *self._gathered]):  # what is gathered within it are parameters of their own
            yield self

    @contextlib.contextmanager
    def twice_differentiable(self) -> Iterator[Pass]:
        """Gathered weights stay within it: a second differentiation needs them before a hook would gather them again."""
        for module in self._modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.set_reshard_after_backward(False, recurse=False)
        try:
            yield self
        finally:
            for module in self._modules:
                module.set_reshard_after_forward(self.full and module is not self.network.unet, recurse=False)
                module.set_reshard_after_backward(True, recurse=False)
                module.reshard()

    @contextlib.contextmanager
    def whole(self) -> Iterator[Network | None]:
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

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"trained": [shard.detach() for shard in self.trained]}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
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


def _keep(accelerator: Accelerator, name: str, parts: dict[str, Stateful]) -> None:
    """Have each process write its share of `parts` into accelerate's checkpoints, and read it from them."""
    file = f"{name}-{accelerator.process_index:05d}.pt"

    def save(models: list, weights: list, folder: str) -> None:
        torch.save({key: part.state_dict() for key, part in parts.items()}, Path(folder) / file)

    def load(models: list, folder: str) -> None:
        state = torch.load(Path(folder) / file, map_location="cpu", weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(state[key])

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _without_memory(network: Network) -> Network:
    """A copy on the meta device."""
    empty = copy.deepcopy(network).to("meta")
    if isinstance(network, Generator):
        empty.schedule = network.schedule
    return empty
