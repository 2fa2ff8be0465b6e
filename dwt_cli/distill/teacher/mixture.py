"""Several teachers as one: a mixture of their distributions.

Legend: K members, N target rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dwt_cli.distill.teacher.options import Weighting
from dwt_cli.distill.teacher.signal import (
    TARGETS_ALONE,
    Answer,
    DenseLogits,
    Request,
    TeacherSignal,
)
from dwt_cli.tasks.task import Batch


@dataclass
class MixtureSignal(TeacherSignal):
    """log sum_k w_k softmax(z_k / tau_k): the logarithm of the weighted mixture, fp32.

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
