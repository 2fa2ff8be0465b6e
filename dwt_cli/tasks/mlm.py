"""Masked language modelling, alone or with a teacher: eq. 3 on the masked positions."""

from torch import Tensor, nn

from dwt_cli.alpha import Moment, Schedule
from dwt_cli.config import Objective
from dwt_cli.corpus.batches import Batch
from dwt_cli.objective.logits import Sums, distillation_sums
from dwt_cli.teacher.signal import Signal
from dwt_cli.training.contract import LossSum


class MaskedLanguageModelling:
    """The loss of a step's part. The teacher runs only while its weight is not zero."""

    def __init__(self, schedule: Schedule, objective: Objective, signal: Signal | None) -> None:
        self._schedule, self._objective, self._signal = schedule, objective, signal

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> LossSum:
        weights = self._schedule.weights(moment)
        if self._signal is not None and self._schedule.soft_is_over(moment):
            self._signal.release()
            self._signal = None
        teacher_NV = None
        if self._signal is not None and weights.soft != 0:
            teacher_NV = self._signal(batch)
        student_NV = model(batch.ids_BL, batch.rows_N)
        sums = distillation_sums(student_NV, teacher_NV, batch.labels_N, weights, self._objective)
        facts = {"alpha_hard": weights.hard}
        if self._signal is not None:
            facts["alpha_soft"] = weights.soft
        return LossSum(sums.total, _named(sums, with_teacher=teacher_NV is not None), facts)


def _named(sums: Sums, with_teacher: bool) -> dict[str, Tensor]:
    named = {"hard_loss": sums.hard, "accuracy": sums.correct}
    if with_teacher:
        named |= {"soft_loss": sums.soft, "teacher_loss": sums.teacher}
    return named
