"""The loss on the target rows of a batch, alone or with a teacher: eq. 3 (arXiv 2305.18239)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dwt_cli.distill.alpha import Constant, Schedule, Weights
from dwt_cli.distill.objective.base import Objective, divergences
from dwt_cli.distill.objective.chunks import ChunkObjective, Chunks, over_chunks
from dwt_cli.distill.objective.features import over_features, requested
from dwt_cli.distill.objective.fused import Comparison, DistillationSums, Sums
from dwt_cli.distill.objective.numbers import SquaredSums
from dwt_cli.distill.objective.revise import NoRevision, Revise
from dwt_cli.distill.objective.select import AllRows, Select
from dwt_cli.distill.teacher.signal import Request, TeacherSignal
from dwt_cli.distill.teacher.targets import SoftTargets, answer_of
from dwt_cli.distill.writing import PartlyWritten, Writing
from dwt_cli.models.features import NO_FEATURES, FeatureSpec
from dwt_cli.models.wrapper import Output, OutputLayer, Want
from dwt_cli.tasks.task import Batch
from dwt_cli.training.profile import span
from dwt_cli.training.protocols import LossSum, Moment, Numbers

Own = tuple[Tensor, dict[str, Tensor]]
"""The answer of `TeacherSignal.own_loss`."""

STAND_ALONE = Constant(hard=1.0, soft=0.0)


@dataclass(frozen=True)
class Distillation:
    """A teacher's signal, and how the student is compared with it.

    parts: what objectives train to compare features, by the objectives' names. writing: what the
    teacher writes; on those rows there is the soft loss alone, of every row and as it is. The loss
    is a sum over as many targets as ever. watch: called with the student and a batch before both
    models answer.
    """

    signal: TeacherSignal
    schedule: Schedule
    objectives: Mapping[str, Objective]
    parts: Mapping[str, nn.Module] = field(default_factory=dict)
    revise: Revise = field(default_factory=NoRevision)
    select: Select = field(default_factory=AllRows)
    writing: Writing | None = None
    watch: Callable[[nn.Module, Batch], None] | None = None


class DistillationLoss:
    """The loss of a micro-batch. The teacher runs only while its weight is not zero.

    aux: the trainable parts of the objectives and of the signal by name, no part of the student.
    compiled: by torch.compile, as the student is.
    """

    def __init__(self, distillation: Distillation | None = None, *, compiled: bool = False) -> None:
        self._distillation, self._compiled = distillation, compiled
        self._is_distilled = distillation is not None
        self._schedule = distillation.schedule if distillation else STAND_ALONE
        self.aux = nn.ModuleDict()
        if distillation:
            ours, theirs = distillation.parts, distillation.signal.parts
            assert ours.keys().isdisjoint(theirs), "a part has a name of its own"
            self.aux.update({**ours, **theirs})

    def compile(self) -> None:
        """Compile the pass over target rows, as the student's layers are."""
        self._compiled = True

    def remember(self, memory: Numbers, metrics: Numbers) -> Numbers:
        """Return what the schedule notes after a step, and the number of steps with a teacher."""
        num_distilled = memory.get("num_taught", 0) + ("soft_loss" in metrics)
        noted = {**self._schedule.remember(memory, metrics), "num_taught": num_distilled}
        return self._distillation.signal.remember(noted, metrics) if self._distillation else noted

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> LossSum:
        """Return eq. 3 and its terms, summed over the target rows of a `LanguageModel`."""
        weights = self._schedule.weights(moment)
        if self._distillation and self._schedule.soft_is_over(moment):
            self._distillation.signal.release()
            self._distillation = None
        facts = {"alpha_hard": weights.hard}
        if self._is_distilled:  # 0 when the teacher is gone
            facts["alpha_soft"] = weights.soft
        if self._distillation is None or weights.soft == 0:
            alone = (Weights(weights.hard, 0.0), Comparison({}))
            sums, *_ = self._sums(model, batch, NO_FEATURES, None, *alone)
            return LossSum(sums.total, _hard(sums, batch), facts)
        total, named = self._distilled(self._distillation, model, batch, moment, weights)
        return LossSum(total, named, facts)

    def _distilled(
        self,
        settings: Distillation,
        model: nn.Module,
        batch: Batch,
        moment: Moment,
        weights: Weights,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        signal, objectives, real = settings.signal, settings.objectives, batch
        of_student, of_teacher = requested(objectives)
        of_chunks = over_chunks(objectives)
        if settings.watch:
            with span("probe"):
                settings.watch(model, batch)
        if settings.writing:
            with span("explore"):
                batch, real = settings.writing(batch, signal, model)
        teacher = None
        if signal.is_student:
            of_student |= of_teacher
        else:
            places = any(each.at_places for each in of_chunks.values())
            asked_for = Request(features=of_teacher, chunks=bool(of_chunks), places=places)
            with span("teacher"):
                teacher = signal(batch, asked_for)
        comparison = Comparison(
            divergences(objectives), settings.revise, settings.select, moment.progress
        )
        targets, own_loss, of_text = teacher and teacher.targets, None, None
        if targets and not targets.are_there:
            targets = None
        if targets and signal.parts:
            of_real = targets if real is batch else targets.rows(slice(len(real.labels_N)))
            own_loss = partial(signal.own_loss, of_real, batch=real, moment=moment)
            targets = targets.detached()  # eq. 3 trains no teacher
        if teacher and teacher.chunks:
            of_text = partial(_of_text, of_chunks, batch.labels_N, teacher.chunks)
        num_real = None if real is batch else len(real.labels_N)
        asked = (targets, weights, comparison, own_loss, of_text, num_real)
        sums, own, texts, student = self._sums(model, batch, of_student, *asked)
        total, soft = sums.total, dict(sums.soft)
        for name, objective in over_features(objectives).items():
            ours, part = student.features, settings.parts.get(name)
            assert ours is not None, "they were requested"
            theirs = teacher.features if teacher else ours.detached()
            assert theirs is not None, "they were requested"
            mean = objective.compare(ours, theirs, part, batch)
            # a mean over positions, as a sum over targets: any split of a batch gives the same
            soft[name] = len(batch.labels_N) * mean
            total = total + weights.soft * objective.weight * soft[name]
        for name, value in texts.items():
            soft[name] = value
            total = total + weights.soft * objectives[name].weight * value
        named = _hard(sums, batch)
        if targets:
            named["teacher_loss"] = sums.teacher
        elif teacher and teacher.chunks:  # of the text in chunks, which is nearly all of it
            named["teacher_loss"] = -teacher.chunks.log_p_C.sum()
        weighted = [objectives[name].weight * value.detach() for name, value in soft.items()]
        named["soft_loss"] = torch.stack(weighted).sum()
        if len(soft) > 1:
            named |= {f"soft_{name}": value.detach() for name, value in soft.items()}
        if settings.select.leaves_out:
            named["selected"] = sums.selected
        if own is not None:
            of_parts, more = own
            total, named["signal_loss"] = total + of_parts, of_parts.detach()
            named |= more
        if settings.writing:  # what is about labels is a mean over the targets that have one
            with_label = 1 - settings.writing.options.exact_share
            named = {
                name: value if name.startswith("soft_") else value / with_label
                for name, value in named.items()
            }
        return total, named

    def _sums(
        self,
        model: nn.Module,
        batch: Batch,
        features: FeatureSpec,
        targets: SoftTargets | None,
        weights: Weights,
        comparison: Comparison,
        own_loss: Callable[[SoftTargets], Own] | None = None,
        of_text: Callable[[SoftTargets], dict[str, Tensor]] | None = None,
        num_real: int | None = None,
    ) -> tuple[Sums, Own | None, dict[str, Tensor], Output]:
        """Return eq. 3, the signal's own loss, objectives of text, and the student's rest.

        own_loss, of_text: functions of the student's answer, the first without a gradient to it.
        num_real: rows that have a label; the others come after them. None: all have.
        """
        settings = (targets, batch.labels_N, weights, comparison)
        sums: DistillationSums | PartlyWritten | SquaredSums
        if batch.labels_N.is_floating_point():
            sums = SquaredSums(*settings)
        elif num_real is None:
            sums = DistillationSums(*settings, compiled=self._compiled)
        else:
            sums = PartlyWritten(*settings, num_real, compiled=self._compiled)

        def loss(states_ND: Tensor, head: OutputLayer | None) -> Any:
            with span("losses"):
                own = own_loss and own_loss(answer_of(states_ND[:num_real], head).detached())
                texts = of_text(answer_of(states_ND, head)) if of_text else {}
                return sums(states_ND, head), own, texts

        want = Want(False, features, loss, batch.ragged, batch.documents_BL)
        output = model(*batch.inputs, want)
        return *output.loss, output


def _hard(sums: Sums, batch: Batch) -> dict[str, Tensor]:
    """Return what is about labels alone; numbers are not right or wrong."""
    named = {"hard_loss": sums.hard}
    return named if batch.labels_N.is_floating_point() else {**named, "accuracy": sums.correct}


def _of_text(
    objectives: Mapping[str, ChunkObjective], labels_N: Tensor, chunks: Chunks, student: SoftTargets
) -> dict[str, Tensor]:
    """Return by name how far the student is from likelihoods of text, with a gradient."""
    logits_NV = student.dense()
    return {name: each.compare(logits_NV, labels_N, chunks) for name, each in objectives.items()}
