"""Signals: soft targets for a batch, asked for in one way wherever they come from.

Legend: N target rows of a batch, V vocabulary, P a teacher's rows of it, K tokens that are kept,
or teachers, D width.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dwt_cli.distill.objective.chunks import Chunks
from dwt_cli.distill.teacher.several import Weighting
from dwt_cli.distill.teacher.targets import DenseLogits, SoftTargets, answer_of
from dwt_cli.models.features import NO_FEATURES, Features, FeatureSpec
from dwt_cli.models.wrapper import LanguageModel, OutputLayer, Want
from dwt_cli.tasks.task import Batch
from dwt_cli.training.protocols import Moment, Numbers


class Request(NamedTuple):
    """A request to a teacher.

    features: of layers, which a signal that comes from a single model has. chunks, places:
    `Chunks`, and the distributions in it, of one that reads its own tokens.
    """

    features: FeatureSpec = NO_FEATURES
    chunks: bool = False
    places: bool = False


class Answer(NamedTuple):
    """A teacher's targets on the target rows of a batch, and the features that were asked for.

    chunks: of a teacher that reads its own tokens, and has no targets.
    """

    targets: SoftTargets
    features: Features | None = None
    chunks: Chunks | None = None


TARGETS_ALONE = Request()


class TeacherSignal(ABC):
    """A source of soft targets.

    model: the one that answers, until the signal is released; None where there is none, or more
    than one. is_student: whether that is the student, which answers once and is not asked again.
    parts: trainable modules of its own, by name. They are trained beside the student by
    `own_loss` and are never part of it; a signal without them runs without gradients.
    """

    model: LanguageModel | None = None
    is_student: ClassVar[bool] = False
    parts: Mapping[str, nn.Module] = MappingProxyType({})

    @abstractmethod
    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        """Return the targets on the batch's target rows, in any form."""

    def own_loss(
        self, teacher: SoftTargets, student: SoftTargets, batch: Batch, moment: Moment
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum over targets of what its parts minimise, and sums for the record.

        Eq. 3 trains no teacher. Called after both models, where there are parts. teacher: its
        targets, with a gradient. student: the student's answer in the same rows, without one.
        """
        raise NotImplementedError

    def remember(self, memory: Numbers, metrics: Numbers) -> Numbers:
        """Return the memory after a step with these metrics, as `Schedule.remember` does."""
        return memory

    def release(self) -> None:
        """Give memory back: the signal will not be asked again."""
        self.model = None


class OwnSignal(TeacherSignal):
    """The student's own features, and no targets: `DistillationLoss` takes them as they come."""

    is_student = True

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        raise AssertionError("the student answers for itself")


class ModelSignal(TeacherSignal):
    """A frozen model beside the student: in eval mode, without gradients.

    temperature: its logits are divided by it; the objective's own comes on top, on both sides.
    """

    def __init__(self, model: LanguageModel, temperature: float = 1.0) -> None:
        self.model = model.eval().requires_grad_(False)
        self._temperature = temperature

    @torch.no_grad()
    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        return self._ask(batch, request)

    def _ask(self, batch: Batch, request: Request) -> Answer:
        assert self.model is not None, "a released teacher is not asked again"
        want = Want(False, request.features, self._targets, batch.ragged, batch.documents_BL)
        output = self.model(*batch.inputs, want)
        return Answer(output.loss, output.features)

    def _targets(self, states_ND: Tensor, head: OutputLayer | None) -> SoftTargets:
        # a sharded head's weights are gone after the forward pass
        return answer_of(states_ND, head, self._temperature, isinstance(self.model, FSDPModule))


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


class VirtualSignal(TeacherSignal):
    """Tf-KD's manually designed teacher (Yuan et al., CVPR 2020, arXiv 1909.11723).

    p(c) = confidence for the label, (1 - confidence) / (V - 1) for every other class. Its logits
    are the logarithms, fp32, which the objective's temperature softens as it does a model's logits.
    At temperature 1, hard * cross-entropy + soft * KL has the gradient of (hard + soft) times the
    cross-entropy with labels smoothed to (hard + soft * confidence) / (hard + soft).
    """

    def __init__(self, confidence: float, vocab_size: int) -> None:
        self._label = math.log(confidence)
        self._other = math.log((1 - confidence) / (vocab_size - 1))
        self._vocab_size = vocab_size

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert not request.features, "without a model there are no features"
        labels_N1 = batch.labels_N[:, None]
        size = (len(labels_N1), self._vocab_size)
        logits_NV = torch.full(size, self._other, device=labels_N1.device)
        return Answer(DenseLogits(logits_NV.scatter_(1, labels_N1, self._label)))


@dataclass
class MixtureSignal(TeacherSignal):
    """Several as one: log sum_k w_k softmax(z_k / tau_k), their weighted mixture's logarithm, fp32.

    The weights are in proportion to m_k exp(-l_k), where m_k is the member's fixed weight and
    l_k = 0                                              with ``Weighting.fixed``,
    l_k = its mean cross-entropy over the batch's labels with ``Weighting.batch``,
    l_k = its cross-entropy with each row's own label    with ``Weighting.token``,
    of the distribution that is mixed, at tau_k. `batch` is made after adaptive distillation (Saleh
    et al., COLING 2020, arXiv 2010.05445), where members count by their loss on the mini-batch;
    that its formula is this softmax of the negative loss was not checked against the paper.
    `token` depends on a row alone, so that splitting a batch changes nothing.
    """

    members: Sequence[TeacherSignal]
    weights: Sequence[float]
    temperatures: Sequence[float]
    weighting: Weighting

    @torch.no_grad()
    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert self.members, "released teachers are not asked again"
        assert not request.features, "several models have no features in common"
        members_KNV = [
            (member(batch).targets.dense().float() / temperature).log_softmax(-1)
            for member, temperature in zip(self.members, self.temperatures, strict=True)
        ]
        log_weights_KN = self._weigh(members_KNV, batch.labels_N).log_softmax(0)
        mixed_NV = members_KNV.pop(0).add_(log_weights_KN[0, :, None])
        for log_weights_N, member_NV in zip(log_weights_KN[1:], members_KNV, strict=True):
            torch.logaddexp(mixed_NV, member_NV.add_(log_weights_N[:, None]), out=mixed_NV)
        return Answer(DenseLogits(mixed_NV))

    def _weigh(self, members_KNV: Sequence[Tensor], labels_N: Tensor) -> Tensor:
        """Return the logarithms of the weights (K, N), up to a constant per row."""
        log_weights_K1 = torch.tensor(self.weights).log().to(labels_N.device)[:, None]
        if self.weighting is Weighting.fixed:
            return log_weights_K1.expand(-1, len(labels_N))
        losses_KN = -torch.stack(
            [member_NV.gather(1, labels_N[:, None]).squeeze(1) for member_NV in members_KNV]
        )
        if self.weighting is Weighting.batch:
            losses_KN = losses_KN.mean(1, keepdim=True)
        return log_weights_K1 - losses_KN

    def release(self) -> None:
        for member in self.members:
            member.release()
        self.members = []
