"""Equation 3 (arXiv 2305.18239) where a target is a number: squared errors instead of nats.

Legend: N target rows, each a text.
"""

import torch
from torch import Tensor

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.fused import Comparison, Sums
from dwt_cli.distill.teacher.targets import SoftTargets
from dwt_cli.models.wrapper import OutputLayer


class SquaredSums:
    """alpha_hard * (p - label)^2 + alpha_soft * sum of weight * (p - t)^2, and its terms.

    teacher: its numbers as logits (N, 1); None: the soft terms are zero. labels_N: fp32. It is
    called as `DistillationSums` is.
    """

    def __init__(
        self,
        teacher: SoftTargets | None,
        labels_N: Tensor,
        weights: Weights,
        comparison: Comparison,
    ) -> None:
        self._teacher_N = None if teacher is None else teacher.dense().float()[:, 0]
        self._labels_N, self._weights, self._comparison = labels_N, weights, comparison

    def __call__(self, outputs_N1: Tensor, head: OutputLayer | None = None) -> Sums:
        """Return the sums of a student with these outputs, which have no head of their own."""
        assert head is None and outputs_N1.shape[1] == 1
        p_N, objectives = outputs_N1.float()[:, 0], self._comparison.objectives
        hard = (p_N - self._labels_N).square().sum()
        total, soft, of_teacher = self._weights.hard * hard, {}, torch.zeros_like(hard)
        if self._teacher_N is not None:
            apart = (p_N - self._teacher_N).square().sum()
            of_teacher = (self._teacher_N - self._labels_N).square().sum()
            soft = dict.fromkeys(objectives, apart.detach())
            weight = self._weights.soft * sum(each.weight for each in objectives.values())
            total = total + weight * apart
        none = torch.zeros_like(of_teacher)
        return Sums(total, hard.detach(), soft, of_teacher, none, none + len(p_N))
