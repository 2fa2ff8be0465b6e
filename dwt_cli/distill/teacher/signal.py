"""Signals: soft targets for a batch, asked for in one way wherever they come from.

Legend: N target rows of a batch, C some of them, V vocabulary, P a teacher's rows of it, K tokens
that are kept, D width.
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

    def release(self) -> None:
        """Give memory back: the signal will not be asked again."""
        self.model = None


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


_BELOW = 20.0  # nats below the unlikeliest token: as good as never, and every divergence is finite


class FittedSignal(TeacherSignal):
    """A signal over the student's rows, of one over the teacher's, in one numbering of tokens.

    Rows of an embedding are often filled up to a round number, and a teacher may know tokens that
    the student's text has not. Its probabilities of those are taken away, and the rest sums to one.

    num_tokens: the ids that both have; no other has a probability. vocab_size: the student's rows.
    """

    def __init__(self, signal: TeacherSignal, num_tokens: int, vocab_size: int) -> None:
        assert num_tokens <= vocab_size
        self.model, self._signal = signal.model, signal
        self._num_tokens, self._vocab_size = num_tokens, vocab_size
        self._removed, self._num_rows = 0.0, 0

    @property
    def removed(self) -> float:
        """The mean mass that was taken away, over the rows that were asked for so far, in 0..1."""
        return self._removed / max(1, self._num_rows)

    @torch.no_grad()
    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        answer = self._signal(batch, request)
        logits_NP = answer.targets.dense()
        kept_NK = logits_NP[:, : self._num_tokens]
        log_z_N, log_kept_N = (part.float().logsumexp(-1) for part in (logits_NP, kept_NK))
        self._removed += float((1 - (log_kept_N - log_z_N).exp()).sum())
        self._num_rows += len(logits_NP)
        lowest_N1 = kept_NK.amin(-1, keepdim=True) - _BELOW
        num_others = self._vocab_size - self._num_tokens
        fitted_NV = torch.cat([kept_NK, lowest_N1.expand(-1, num_others)], -1)
        return Answer(DenseLogits(fitted_NV), answer.features)

    def release(self) -> None:
        self._signal.release()
        self.model = None
