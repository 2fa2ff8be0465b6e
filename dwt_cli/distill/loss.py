"""The loss on the target rows of a batch, alone or with a teacher: eq. 3 (arXiv 2305.18239)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dwt_cli.distill.alpha import Constant, Schedule, Weights
from dwt_cli.distill.objective.base import Objective, divergences
from dwt_cli.distill.objective.feature_losses import FeatureLoss, requested
from dwt_cli.distill.objective.fused import Comparison, Sums, distillation_sums, hard_sums
from dwt_cli.distill.objective.revise import NoRevision, Revise
from dwt_cli.distill.objective.select import AllRows, Select
from dwt_cli.distill.teacher.signal import Request, TeacherSignal
from dwt_cli.models.wrapper import Want
from dwt_cli.tasks.task import Batch
from dwt_cli.training.moment import Moment
from dwt_cli.training.protocols import LossSum

STAND_ALONE = Constant(hard=1.0, soft=0.0)


@dataclass(frozen=True)
class Distillation:
    """A teacher's signal, and how the student is compared with it.

    feature_losses: a module for each of the objectives that need features, by name.
    """

    signal: TeacherSignal
    schedule: Schedule
    objectives: Mapping[str, Objective]
    feature_losses: Mapping[str, FeatureLoss] = field(default_factory=dict)
    revise: Revise = field(default_factory=NoRevision)
    select: Select = field(default_factory=AllRows)


class DistillationLoss:
    """The loss of a micro-batch. The teacher runs only while its weight is not zero.

    aux: the trainable parts of the objectives and of the signal by name, no part of the student.
    compiled: by torch.compile, as the student is.
    """

    def __init__(self, distillation: Distillation | None = None, *, compiled: bool = False) -> None:
        self._distillation, self._compiled = distillation, compiled
        self._signal = distillation.signal if distillation else None
        self._schedule = distillation.schedule if distillation else STAND_ALONE
        feature_losses = distillation.feature_losses if distillation else {}
        parts = self._signal.parts if self._signal else {}
        assert feature_losses.keys().isdisjoint(parts), "a part has a name of its own"
        self.aux = nn.ModuleDict({**feature_losses, **parts})
        self._student_features, features = requested(feature_losses.values())
        self._request = Request(features=features)

    def remember(
        self, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Return what the schedule notes after a step, and the number of steps with a teacher."""
        num_distilled = memory.get("num_taught", 0) + ("teacher_loss" in metrics)
        return {**self._schedule.remember(memory, metrics), "num_taught": num_distilled}

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> LossSum:
        """Return eq. 3 and its terms, summed over the target rows of a `LanguageModel`."""
        weights = self._schedule.weights(moment)
        facts = {"alpha_hard": weights.hard}
        if self._signal is not None and self._schedule.soft_is_over(moment):
            self._signal.release()
            self._signal = None
        if self._signal is not None:
            facts["alpha_soft"] = weights.soft
        if self._signal is None or weights.soft == 0:
            student_NV = model(*batch.inputs, Want(ragged=batch.ragged)).logits_NV
            sums = hard_sums(student_NV, batch.labels_N, weights.hard, compiled=self._compiled)
            return LossSum(sums.total, _of_label(sums), facts)
        total, named = self._distilled(self._signal, model, batch, moment, weights)
        return LossSum(total, named, facts)

    def _distilled(
        self,
        signal: TeacherSignal,
        model: nn.Module,
        batch: Batch,
        moment: Moment,
        weights: Weights,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, num_targets = self._distillation, len(batch.labels_N)
        assert settings is not None, "a signal comes with them"
        teacher = signal(batch, self._request)
        want = Want(features=self._student_features, ragged=batch.ragged)
        student = model(*batch.inputs, want)
        sums = distillation_sums(
            student.logits_NV,
            teacher.targets.detach(),
            batch.labels_N,
            weights,
            Comparison(
                divergences(settings.objectives), settings.revise, settings.select, moment.progress
            ),
            compiled=self._compiled,
        )
        # means over positions, as sums over targets: any split of a batch gives the same
        features = {
            name: num_targets * loss(student.features, teacher.features)
            for name, loss in settings.feature_losses.items()
        }
        total, soft = sums.total, {**sums.soft, **features}
        for name, value in features.items():
            total = total + weights.soft * settings.objectives[name].weight * value
        named = _of_label(sums) | {"teacher_loss": sums.teacher}
        weighted = [
            settings.objectives[name].weight * value.detach() for name, value in soft.items()
        ]
        named["soft_loss"] = torch.stack(weighted).sum()
        if len(soft) > 1:
            named |= {f"soft_{name}": value.detach() for name, value in soft.items()}
        if settings.select.leaves_out:
            named["selected"] = sums.selected
        own = None
        if signal.parts:
            teacher_NV, student_NV = teacher.targets.dense(), student.logits_NV.detach()
            own = signal.own_loss(teacher_NV, student_NV, batch, moment)
        if own is not None:
            total, named["signal_loss"] = total + own, own.detach()
        else:
            assert not teacher.targets.requires_grad, "eq. 3 trains no teacher: give an own_loss"
        return total, named


def _of_label(sums: Sums) -> dict[str, Tensor]:
    return {"hard_loss": sums.hard, "accuracy": sums.correct}
