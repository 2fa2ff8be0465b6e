"""Signals: soft targets for a batch, asked for in one way wherever they come from.

Legend: N target rows of a batch, C some of them, V vocabulary, K tokens that are kept, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dwt_cli.models.features import NO_FEATURES, Features, FeatureSpec
from dwt_cli.models.wrapper import LanguageModel, Want
from dwt_cli.tasks.task import Batch
from dwt_cli.training.protocols import Moment

ALL_ROWS = slice(None)


@dataclass(frozen=True)
class SoftTargets(ABC):
    """The teacher's distributions over the vocabulary; each subclass is a form of them."""

    @abstractmethod
    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        """Return the logits (C, V) of these rows, in any float type."""


@dataclass(frozen=True)
class DenseLogits(SoftTargets):
    """A logit for every token."""

    logits_NV: Tensor

    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        return self.logits_NV[rows]


@dataclass(frozen=True)
class HeadStates(SoftTargets):
    """The states that enter a head, and the head, which makes logits of them when asked for some.

    The head as a whole: its matrix, a bias, a cap, the number of its ids that are valid.
    """

    states_ND: Tensor
    head: Callable[[Tensor], Tensor]
    temperature: float = 1.0

    @torch.no_grad()
    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        logits_CV = self.head(self.states_ND[rows])
        return logits_CV if self.temperature == 1 else logits_CV / self.temperature


@dataclass(frozen=True)
class SparseRows(SoftTargets):
    """The log-probabilities of some tokens of each row; the others share the rest evenly.

    ids_NK: int64, distinct within a row. log_probabilities_NK: any float type.
    """

    ids_NK: Tensor
    log_probabilities_NK: Tensor
    vocab_size: int

    def dense(self, rows: slice = ALL_ROWS) -> Tensor:
        """Return log-probabilities (C, V), fp32."""
        kept_CK = self.log_probabilities_NK[rows].float()
        rest_C1 = 1 - kept_CK.exp().sum(-1, keepdim=True)  # rounding may bring it below 0
        num_others = max(1, self.vocab_size - kept_CK.shape[1])
        other_C1 = (rest_C1.clamp_min(1e-30) / num_others).log()
        return other_C1.repeat(1, self.vocab_size).scatter(1, self.ids_NK[rows], kept_CK)


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
        want = Want(features=request.features, ragged=batch.ragged, documents_BL=batch.documents_BL)
        # a sharded head's weights are gone after a forward pass
        if batch.tiled and self.model.anatomy and not isinstance(self.model, FSDPModule):
            states = want._replace(logits=False, loss=lambda states_ND, head: (states_ND, head))
            output = self.model(*batch.inputs, states)
            states_ND, head = output.loss
            return Answer(HeadStates(states_ND, head, self._temperature), output.features)
        output = self.model(*batch.inputs, want)
        logits_NV = output.logits_NV
        if self._temperature != 1:
            logits_NV = logits_NV / self._temperature
        return Answer(DenseLogits(logits_NV), output.features)

    def release(self) -> None:
        self.model = None
