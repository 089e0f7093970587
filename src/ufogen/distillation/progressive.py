"""Progressive distillation (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2).

A student learns to make in one DDIM step what its teacher makes in two; then it is the teacher, and the number of steps is
halved again. The loss stands at x_0 with weight max(SNR, 1), whatever the network predicts (the paper's is velocity too).

Guidance: in the first halving the teacher is the base with classifier-free guidance, two passes at each of its steps; later
teachers are students and need none. Meng et al. (2023, arXiv 2210.03142) spend a stage of its own on it, in which the student
learns the guided teacher at every t and for many scales; here there is one scale and no such stage.

The students of 2, 4, 8 ... steps are what earlier halvings leave; the paper samples each with as many DDIM steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ufogen import config
from ufogen.diffusion.losses import gamma_weight, reconstruction_loss
from ufogen.diffusion.objective import Loss, Network
from ufogen.diffusion.sampling import step_timesteps
from ufogen.diffusion.schedule import CLEAN, Schedule
from ufogen.distillation.method import Method, Networks
from ufogen.distillation.teacher import ddim_step
from ufogen.errors import UserError
from ufogen.randomness import Draws


@dataclass
class Items:
    x_t: Tensor  # (b, c, h, w)
    t: Tensor  # (b,), as the next two
    middle: Tensor  # after the teacher's first step
    s: Tensor  # after its second
    caption: dict[str, Tensor]


def progressive_target(
    teacher: Network, x_t: Tensor, t: Tensor, middle: Tensor, s: Tensor, schedule: Schedule, **caption: Tensor
) -> Tensor:
    """x~ (b, c, h, w): the x_0 from which one DDIM step from t to s ends where the teacher's two end (algorithm 2)."""
    x_middle = ddim_step(teacher(x_t, t, **caption), x_t, t, middle, schedule)
    x_s = ddim_step(teacher(x_middle, middle, **caption), x_middle, middle, s, schedule)
    return x_0_of_step(x_s, x_t, t, s, schedule)


def x_0_of_step(x_s: Tensor, x_t: Tensor, t: Tensor, s: Tensor, schedule: Schedule) -> Tensor:
    """`ddim_step` solved for x_0: (x_s - r x_t) / (sqrt(abar_s) - r sqrt(abar_t)) with r = sigma_s / sigma_t (algorithm 2)."""
    alpha_bar_s, alpha_bar_t = schedule.alpha_bar(s, like=x_t), schedule.alpha_bar(t, like=x_t)
    ratio = ((1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt()
    return (x_s - ratio * x_t) / (alpha_bar_s.sqrt() - ratio * alpha_bar_t.sqrt())


class Progressive(Method):
    """As many phases as the teacher's steps can be halved."""

    teacher_passes = 2
    sampler = "ddim"

    def __init__(self, schedule: Schedule, settings: config.Progressive, prediction_type: str):
        super().__init__(schedule, settings, prediction_type)
        if settings.teacher_steps > schedule.num_timesteps:
            raise UserError(
                f"parameter distillation.teacher_steps is {settings.teacher_steps}; allowed: at most {schedule.num_timesteps}"
            )
        self.phases = settings.teacher_steps.bit_length() - 1

    def student_steps(self, phase: int) -> int:
        return self.settings.teacher_steps >> (phase + 1)

    def phase_of(self, steps: int) -> int:
        """Raises `UserError` for a number of steps that no student has."""
        found = {self.student_steps(phase): phase for phase in range(self.phases)}
        if steps not in found:
            raise UserError(f"progressive distillation has no student of {steps} steps; allowed: {', '.join(map(str, found))}")
        return found[steps]

    def draw(self, x_0: Tensor, caption: dict[str, Tensor], draws: Draws, phase: int) -> Items:
        """t uniform over the student's timesteps; a teacher's grid has them at every second place."""
        n = self.student_steps(phase)
        grid = torch.tensor([*step_timesteps(2 * n, self.schedule.num_timesteps), CLEAN], device=x_0.device)
        i = 2 * draws.integers(0, n, len(x_0))
        x_t = self.schedule.q(x_0, grid[i]).sample(draws.normal(x_0))
        return Items(x_t, grid[i], grid[i + 1], grid[i + 2], caption)

    def student_loss(self, networks: Networks, items: Items, x_0_fake: Tensor) -> Loss:
        """max(SNR_t, 1) ||x~ - x'_0||^2, the truncated SNR of section 4."""
        with torch.no_grad():
            target = progressive_target(
                networks.teacher, items.x_t, items.t, items.middle, items.s, self.schedule, **items.caption
            )
        loss = reconstruction_loss(x_0_fake, target, gamma_weight(self.settings.gamma, items.t, self.schedule))
        return loss, {"loss": loss.detach()}
