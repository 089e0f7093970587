"""One update of a method of distillation under accelerate. What is computed, and why, is in `distillation/`."""

from __future__ import annotations

import contextlib
import copy
from bisect import bisect_right
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from ufogen import config
from ufogen.diffusion.batch import EncodedBatch, split
from ufogen.diffusion.networks import Generator
from ufogen.distillation.method import Items, Method, Networks
from ufogen.distillation.teacher import guided
from ufogen.errors import UserError
from ufogen.randomness import Draws
from ufogen.training.optimized import Optimized, means, micro_batches

Generate = Callable[[Items, bool], Tensor]  # x'_0 of a part, with or without a graph


class Distiller:
    """A task for `training.loop.fit`: a student beside a frozen teacher and, where the method has one, a critic.

    Parameters
    ----------
    student, teacher: both the base at the start; the teacher is not changed.
    empty: the caption of the empty prompt, (1, ...) each, which guidance leads away from.
    guidance: the base's scale.

    Raises `UserError` in `prepare` for trainer.sharding, and for fewer updates than the method has phases.
    """

    def __init__(
        self,
        method: Method,
        student: Generator,
        teacher: Generator,
        empty: dict[str, Tensor],
        guidance: float,
        settings: config.Trainer,
    ):
        self.method, self.student, self.settings, self.guidance = method, student, settings, guidance
        self.base, self.empty = _replica(teacher) if method.phases > 1 else teacher, empty
        self.critic = method.make_critic(teacher.unet)

    def prepare(self, accelerator: Accelerator) -> None:
        """Make optimizers and average, and hand everything that has state to accelerate."""
        tr, phases, device = self.settings, self.method.phases, accelerator.device
        if tr.sharding != "none":
            raise UserError(f"parameter trainer.sharding is {tr.sharding}; allowed with a distillation: none")
        if tr.updates < phases:
            raise UserError(f"parameter trainer.updates is {tr.updates}; allowed with {phases} phases: {phases} or greater")
        self.accelerator = accelerator
        self.of_student = Optimized(
            "student", self.student, tr.generator_learning_rate, tr.warmup, accelerator, tr, averaged=True
        )
        self.of_critic = None
        if self.critic is not None:
            self.of_critic = Optimized("critic", self.critic, tr.discriminator_learning_rate, tr.warmup, accelerator, tr)
        self.finished = Finished()
        if phases > 1:
            accelerator.register_for_checkpointing(self.finished)
        self.ema, self.taught_by = self.of_student.ema, -1
        self.teacher = self.base.to(device).eval().requires_grad_(False)
        self.target = _replica(self.student).to(device) if self.method.averaged_target else None
        self.empty = {name: value.to(device) for name, value in self.empty.items()}
        self.method.schedule.to(device)

    def update(self, batch: EncodedBatch, step: int, draws: Draws) -> dict[str, Tensor]:
        """One step of the critic and, as often as the method says, one of the student. Returns scalars.

        Both are from one pass of the student, unless there is accumulation: it is then passed again once the critic has
        moved, so that no more than one micro-batch's graph is ever held.
        """
        phase, start, length = self._phase(step)
        self._begin(phase)
        for trained in filter(None, (self.of_student, self.of_critic)):
            trained.begin(step - start, length)
        if self.target is not None:
            self.ema.copy_to(self.target.parameters())
        learns = (step + 1) % self.method.critic_updates == 0
        drawn = self.method.draw(*batch.on(self.accelerator.device), draws, phase)  # nothing in it depends on the division
        parts, networks, generate = split(drawn, self.settings.accumulation), self._networks(phase), self._generate
        if len(parts) == 1:
            shared = self._generate(parts[0], learns)

            def generate(part: Items, graph: bool) -> Tensor:
                return shared

        scalars = self._update_critic(parts, networks, generate) if self.of_critic else {}
        return scalars | (self._update_student(parts, networks, generate) if learns else {})

    def unet_evaluations(self, updates: int) -> int:
        """Forward passes of a U-Net per item over a run, the teacher's included."""
        m, tr = self.method, self.settings
        total, critic = 0, m.critic_updates if self.critic is not None else 1
        for phase in range(m.phases):
            start, end = (number * updates // m.phases for number in (phase, phase + 1))
            students = end // critic - start // critic
            once = self.critic is None or tr.accumulation == 1
            generated = (end - start) + (0 if once else students)
            teacher = m.teacher_passes * (2 if self._is_guided(phase) else 1)
            total += generated + (end - start) * m.critic_passes + students * (m.student_passes + teacher)
        return tr.batch_size * tr.accumulation * total

    @contextlib.contextmanager
    def averaged(self, steps: int = 1) -> Iterator[Generator]:
        """The student that samples in as many steps, which within the context has the averaged weights.

        Raises `UserError` where the method has no such student.
        """
        phase = self.method.phase_of(steps)
        if phase < self.method.phases - 1:
            yield self.finished.load(phase, _replica(self.student))
        else:
            with self.of_student.averaged() as student:
                yield student

    def _phase(self, step: int) -> tuple[int, int, int]:
        """The number of the phase that an update is in, its first update and how many it has."""
        n, updates = self.method.phases, self.settings.updates
        bounds = [number * updates // n for number in range(n + 1)]
        phase = min(bisect_right(bounds, step), n) - 1
        return phase, bounds[phase], bounds[phase + 1] - bounds[phase]

    def _begin(self, phase: int) -> None:
        """Once a phase is over, its student teaches; a resumed run comes here too."""
        previous = phase - 1
        if previous == self.taught_by:
            return
        if previous not in self.finished.students:
            self.finished.students[previous] = [weight.detach().cpu().clone() for weight in self.student.parameters()]
            self.of_student.optimizer.state.clear()  # the next student starts as its teacher does
        self.finished.load(previous, self.teacher)
        self.taught_by = previous

    def _is_guided(self, phase: int) -> bool:
        return phase == 0 and self.guidance > 1  # a student has learnt the guidance of its teacher

    def _networks(self, phase: int) -> Networks:
        def passes(network: Generator) -> Callable[..., Tensor]:
            def call(*inputs: Tensor, **caption: Tensor) -> Tensor:
                with torch.no_grad(), self.accelerator.autocast():
                    return network(*inputs, **caption)

            return call

        teacher = passes(self.teacher)
        return Networks(
            student=self.of_student.passes,
            teacher=guided(teacher, self.empty, self.guidance) if self._is_guided(phase) else teacher,
            target=passes(self.target) if self.target is not None else None,
            critic=self.of_critic.passes if self.of_critic else None,
        )

    def _generate(self, part: Items, graph: bool) -> Tensor:
        with torch.set_grad_enabled(graph):
            return self.method.generate(Networks(self.of_student.passes, self.teacher), part)

    def _update_critic(self, parts: list[Items], networks: Networks, generate: Generate) -> dict[str, Tensor]:
        scalars = []
        for part in micro_batches(parts, self.of_critic.passes):
            loss, found = self.method.critic_loss(networks, part, generate(part, False).detach())
            self.accelerator.backward(loss / len(parts))
            scalars.append(found)
        return means(scalars) | self.of_critic.step()

    def _update_student(self, parts: list[Items], networks: Networks, generate: Generate) -> dict[str, Tensor]:
        scalars = []
        frozen = self.of_critic.passes.frozen() if self.of_critic else contextlib.nullcontext()
        with frozen as critic:
            networks.critic = critic
            for part in micro_batches(parts, self.of_student.passes):
                loss, found = self.method.student_loss(networks, part, generate(part, True))
                self.accelerator.backward(loss / len(parts))
                scalars.append(found)
                del loss  # and with it the graph, before the next part's is made
        return means(scalars) | self.of_student.step()


class Finished:
    """The weights of the students whose phase is over, kept in a run's checkpoints."""

    def __init__(self) -> None:
        self.students: dict[int, list[Tensor]] = {}

    def load(self, phase: int, network: Generator) -> Generator:
        """The network with that student's weights."""
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), self.students[phase], strict=True):
                parameter.copy_(value)
        return network

    def state_dict(self) -> dict[int, list[Tensor]]:
        return self.students

    def load_state_dict(self, state: dict[int, list[Tensor]]) -> None:
        self.students = state


def _replica(generator: Generator) -> Generator:
    """A copy that does not learn, on the same schedule."""
    unet = copy.deepcopy(generator.unet).eval().requires_grad_(False)
    return Generator(unet, generator.schedule, generator.prediction_type)
