"""Signals: soft targets for a batch, asked for in one way wherever they come from.

Legend: N target rows, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dwt_cli.distill.teacher.targets import (
    CalledHead,
    DenseLogits,
    HeadStates,
    SoftTargets,
    SparseRows,
)
from dwt_cli.models.features import NO_FEATURES, Features, FeatureSpec
from dwt_cli.models.wrapper import LanguageModel, Want
from dwt_cli.tasks.task import Batch
from dwt_cli.training.moment import Moment


class Request(NamedTuple):
    """A request to a teacher.

    forms: those of which the answer's targets may be one. features: of layers, which a signal that
    comes from a single model has.
    """

    forms: tuple[type[SoftTargets], ...] = (DenseLogits, SparseRows, HeadStates)
    features: FeatureSpec = NO_FEATURES


class Answer(NamedTuple):
    """A teacher's targets on the target rows of a batch, and the features that were asked for."""

    targets: SoftTargets
    features: Features | None = None


TARGETS_ALONE = Request()


class TeacherSignal(ABC):
    """A source of soft targets.

    model: the one that answers, until the signal is released; None where there is none, or more
    than one. parts: trainable modules of its own, by name. They are trained beside the student by
    `own_loss` and are never part of it; a signal without them runs without gradients.
    """

    model: LanguageModel | None = None
    parts: ClassVar[Mapping[str, nn.Module]] = {}

    @abstractmethod
    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        """Return the targets on the batch's target rows, in one of the requested forms."""

    def own_loss(
        self, teacher_NV: Tensor, student_NV: Tensor, batch: Batch, moment: Moment
    ) -> Tensor:
        """Return the sum over targets of what its parts minimise: eq. 3 trains no teacher.

        Called after both models, where there are parts. teacher_NV: its targets as logits, with a
        gradient. student_NV: the student's logits, without one.
        """
        raise NotImplementedError

    @abstractmethod
    def release(self) -> None:
        """Give memory back: the signal will not be asked again."""


class ModelSignal(TeacherSignal):
    """A frozen model beside the student: in eval mode, without gradients.

    temperature: its logits are divided by it; the objective's own comes on top, on both sides.
    """

    def __init__(self, model: LanguageModel, temperature: float = 1.0) -> None:
        self.model = model.eval().requires_grad_(False)
        self._temperature = temperature

    @torch.no_grad()
    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert self.model is not None, "a released teacher is not asked again"
        want = Want(features=request.features, ragged=batch.ragged)
        if batch.tiled and self.model.anatomy and not _is_sharded(self.model):
            states = want._replace(logits=False, loss=lambda states_ND, head: (states_ND, head))
            output = self.model(*batch.inputs, states)
            states_ND, head = output.loss
            return Answer(CalledHead(states_ND, head, self._temperature), output.features)
        output = self.model(*batch.inputs, want)
        logits_NV = output.logits_NV
        if self._temperature != 1:
            logits_NV = logits_NV / self._temperature
        return Answer(DenseLogits(logits_NV), output.features)

    def release(self) -> None:
        self.model = None


def _is_sharded(model: nn.Module) -> bool:
    """Return whether the head's weights are gone after a forward pass."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
