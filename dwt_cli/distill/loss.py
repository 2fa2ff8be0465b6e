"""Masked language modelling, alone or with a teacher: eq. 3 on the masked positions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dwt_cli.distill.alpha import Constant, Schedule, Weights
from dwt_cli.distill.objective.features import wishes
from dwt_cli.distill.objective.fused import Sums, Target, distillation_sums, hard_sums
from dwt_cli.distill.objective.options import Distributions, Objective, Revise, Select
from dwt_cli.distill.teacher.signal import Signal
from dwt_cli.models.features import Features
from dwt_cli.tasks.task import Batch
from dwt_cli.training.moment import Moment
from dwt_cli.training.protocols import LossSum

ALONE = Constant(hard=1.0, soft=0.0)


@dataclass(frozen=True)
class Lesson:
    """What a student learns from: a teacher's signal, and how it is compared with it.

    inside: a module for each objective that looks inside both models, by name.
    """

    signal: Signal
    schedule: Schedule
    objectives: Mapping[str, Objective]
    inside: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    revise: Revise = field(default_factory=Revise)
    select: Select = field(default_factory=Select)


class MaskedLanguageModelling:
    """The loss of a step's part. The teacher runs only while its weight is not zero.

    aux: the trainable parts of the objectives; they are no part of the student. compiled: by
    torch.compile, as the student is.
    """

    def __init__(self, lesson: Lesson | None = None, *, compiled: bool = False) -> None:
        self._lesson, self._compiled = lesson, compiled
        self._signal = lesson.signal if lesson else None
        self._schedule = lesson.schedule if lesson else ALONE
        self.aux: nn.ModuleDict = lesson.inside if lesson else nn.ModuleDict()
        self._ours, self._theirs = wishes(self.aux)

    def remember(
        self, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        """What the schedule notes after a step, and in how many steps the teacher has run."""
        taught = memory.get("num_taught", 0) + ("teacher_loss" in metrics)
        return {**self._schedule.remember(memory, metrics), "num_taught": taught}

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> LossSum:
        weights = self._schedule.weights(moment)
        facts = {"alpha_hard": weights.hard}
        if self._signal is not None and self._schedule.soft_is_over(moment):
            self._signal.release()
            self._signal = None
        if self._signal is not None:
            facts["alpha_soft"] = weights.soft
        if self._signal is None or weights.soft == 0:
            student_NV = model(batch.ids_BL, batch.rows_N)
            sums = hard_sums(student_NV, batch.labels_N, weights.hard, compiled=self._compiled)
            return LossSum(sums.total, _of_label(sums), facts)
        total, named = self._listen(self._signal, model, batch, moment, weights)
        return LossSum(total, named, facts)

    def _listen(
        self, signal: Signal, model: nn.Module, batch: Batch, moment: Moment, weights: Weights
    ) -> tuple[Tensor, dict[str, Tensor]]:
        lesson = self._lesson
        assert lesson is not None, "without a lesson there is no signal"
        theirs, ours = self._theirs.again(), self._ours.again()
        teacher_NV = signal(batch, theirs if self.aux else None)
        student_NV = model(batch.ids_BL, batch.rows_N, ours if self.aux else None)
        compared = {
            name: o for name, o in lesson.objectives.items() if isinstance(o, Distributions)
        }
        sums = distillation_sums(
            student_NV,
            teacher_NV,
            batch.labels_N,
            weights,
            Target(compared, lesson.revise, lesson.select, moment.progress),
            compiled=self._compiled,
        )
        inside = self._inside(ours, theirs, len(batch.labels_N))
        total, soft = sums.total, {**sums.soft, **inside}
        for name, value in inside.items():
            total = total + weights.soft * lesson.objectives[name].weight * value
        named = _of_label(sums) | {"teacher_loss": sums.teacher}
        weighted = [lesson.objectives[name].weight * value.detach() for name, value in soft.items()]
        named["soft_loss"] = torch.stack(weighted).sum()
        if len(soft) > 1:
            named |= {f"soft_{name}": value.detach() for name, value in soft.items()}
        if type(lesson.select) is not Select:
            named["selected"] = sums.selected
        return total, named

    def _inside(self, ours: Features, theirs: Features, num_targets: int) -> dict[str, Tensor]:
        """Means over positions, as sums over targets: any split of a batch gives the same."""
        return {name: num_targets * module(ours, theirs) for name, module in self.aux.items()}


def _of_label(sums: Sums) -> dict[str, Tensor]:
    return {"hard_loss": sums.hard, "accuracy": sums.correct}
