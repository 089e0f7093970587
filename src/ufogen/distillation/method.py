"""What a method of distillation is to the trainer, which knows none by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ufogen.diffusion.objective import Loss, Network
from ufogen.diffusion.sampling import step_timesteps
from ufogen.diffusion.schedule import Schedule
from ufogen.randomness import Draws

Items = Any  # a dataclass of a method's own, of tensors (b, ...) and dictionaries of them


@dataclass
class Networks:
    """The networks as functions: f(x_t, t, **caption) -> x'_0 each; a critic is as its method makes it.

    teacher: without a gradient, guided while it is the base.
    target: the average of the student, without a gradient; None where the method does not ask for it.
    critic: takes gradients in the critic's loss and only hands them on in the student's; None where there is none.
    """

    student: Network
    teacher: Network
    target: Network | None = None
    critic: Network | None = None


class Method(ABC):
    """A method on a schedule. Losses are means over items, however many.

    An update draws items and passes the student once, `generate`; critic and student learn from that one pass.

    Attributes
    ----------
    phases: the training is as many runs one after another; from the second on the student of the one before is the teacher.
    critic_updates: of the critic to one of the student.
    averaged_target: whether `Networks.target` is needed.
    teacher_passes, student_passes, critic_passes: U-Net passes of an item in the student's loss, the teacher's and all
        others apart, and in the critic's; `generate` comes on top.
    sampler: of the student, as in `evaluation.sampler.Method`.
    """

    phases = 1
    critic_updates = 1
    averaged_target = False
    teacher_passes = 0
    student_passes = 0
    critic_passes = 0
    sampler = "renoise"

    def __init__(self, schedule: Schedule, settings: Any, prediction_type: str):
        """`prediction_type` is what the base puts out, and with it every network made of it."""
        self.schedule, self.settings, self.prediction_type = schedule, settings, prediction_type

    @abstractmethod
    def draw(self, x_0: Tensor, caption: dict[str, Tensor], draws: Draws, phase: int) -> Items:
        """Timesteps and noise for data (b, c, h, w) with captions (b, ...)."""

    def generate(self, networks: Networks, items: Items) -> Tensor:
        """The student's x'_0 of x_t."""
        return self.denoiser(networks.student)(items.x_t, items.t, **items.caption)

    @abstractmethod
    def student_loss(self, networks: Networks, items: Items, x_0_fake: Tensor) -> Loss:
        """What the student minimises, x_0_fake being `generate`'s."""

    def make_critic(self, unet: UNet2DConditionModel) -> nn.Module | None:
        """A network with an attribute `unet`, made of a copy of the base's, that learns beside the student; or none."""
        return None

    def critic_loss(self, networks: Networks, items: Items, x_0_fake: Tensor) -> Loss:
        """What the critic minimises, x_0_fake being without a gradient."""
        raise NotImplementedError

    def denoiser(self, network: Network) -> Network:
        """The map from x_t to x'_0 that a network stands for."""
        return network

    def timesteps(self, steps: int) -> list[int]:
        """Where the student is called when it samples in as many steps."""
        return step_timesteps(steps, self.schedule.num_timesteps)

    def phase_of(self, steps: int) -> int:
        """The phase whose student samples in as many steps."""
        return self.phases - 1
