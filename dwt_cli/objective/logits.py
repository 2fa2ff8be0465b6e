"""Equations 1 to 3 of the paper (arXiv 2305.18239, section 2) over target rows, and relatives.

Softmax and sums are in fp32 whatever the models compute in. Losses are sums over rows, in nats.
Legend: N target rows, V vocabulary, C rows of one chunk.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dwt_cli.alpha import Weights
from dwt_cli.config import Distributions, Revise, Select
from dwt_cli.objective.divergences import DIVERGENCES, Distribution
from dwt_cli.objective.revise import revised
from dwt_cli.objective.select import selected

CHUNK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 28}  # on a CPU a chunk's fp32 rows stay in the cache


class Sums(NamedTuple):
    """Sums over the target rows, scalars in fp32; ``total`` alone carries a gradient.

    hard: cross-entropy with the label (eq. 1). soft: each divergence from the teacher by the name
    of its objective, without its weight. teacher: the teacher's own cross-entropy with the label.
    correct: rows in which no logit is above the label's. selected: rows in which the soft loss
    counts.
    """

    total: Tensor
    hard: Tensor
    soft: dict[str, Tensor]
    teacher: Tensor
    correct: Tensor
    selected: Tensor


class Target(NamedTuple):
    """How the student is compared with the teacher's distributions, at one moment of training."""

    objectives: Mapping[str, Distributions]
    revise: Revise = Revise()
    select: Select = Select()
    progress: float = 0.0


def hard_sums(student_NV: Tensor, labels_N: Tensor, hard_weight: float = 1.0) -> Sums:
    """The cross-entropy alone; the soft terms are zero."""
    return distillation_sums(student_NV, None, labels_N, Weights(hard_weight, 0.0), Target({}))


def distillation_sums(
    student_NV: Tensor,
    teacher_NV: Tensor | None,
    labels_N: Tensor,
    weights: Weights,
    target: Target,
) -> Sums:
    """alpha_hard * hard + alpha_soft * sum of weight * soft (eq. 3), and its terms.

    student_NV, teacher_NV: logits of any float type; no teacher: the soft terms are zero.
    labels_N: int64.
    """
    total, terms = _Distillation.apply(  # type: ignore[no-untyped-call]
        student_NV, teacher_NV, labels_N, weights, target
    )
    hard, teacher, correct, counted, *soft = terms.unbind()
    named = dict(zip(target.objectives, soft, strict=True))
    return Sums(total, hard, named, teacher, correct, counted)


class _Distillation(torch.autograd.Function):
    """Losses and gradient in one pass over chunks of rows.

    The gradient with respect to the logits is known in closed form, so the forward pass writes
    it and no (N, V) table of log-probabilities is kept:
    hard (p - onehot) + the sum over divergences of soft / tau d(divergence)/d(logits / tau).
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_NV: Tensor,
        teacher_NV: Tensor | None,
        labels_N: Tensor,
        weights: Weights,
        target: Target,
    ) -> tuple[Tensor, Tensor]:
        num_rows, vocab_size = student_NV.shape
        step = max(1, CHUNK_BYTES[student_NV.device.type] // (4 * vocab_size))
        gradient_NV = torch.empty_like(student_NV) if ctx.needs_input_grad[0] else None
        total = student_NV.new_zeros((), dtype=torch.float32)
        terms = student_NV.new_zeros(4 + len(target.objectives), dtype=torch.float32)
        hard, teacher, correct, counted, *soft = terms.unbind()
        for start in range(0, num_rows, step):
            rows = slice(start, start + step)
            labels_C1 = labels_N[rows, None]
            ours = Distribution.of(student_NV[rows].float())
            label_C1 = ours.scores_CV.gather(1, labels_C1)
            hard += (ours.log_z_C1 - label_C1).sum()
            correct += (label_C1 >= ours.top_C1).sum()
            gradient: list[tuple[float | Tensor, Tensor]] = [(weights.hard, ours.probabilities_CV)]
            if teacher_NV is not None:
                theirs = Distribution.of(teacher_NV[rows].float())
                teacher -= theirs.log_probability(labels_C1).sum()
                weight_C1 = selected(target.select, ours, theirs, labels_C1)
                counted += len(labels_C1) if weight_C1 is None else weight_C1.sum()
                for sum_of_losses, objective in zip(soft, target.objectives.values(), strict=True):
                    tau = objective.temperature_at(target.progress)
                    weight = weights.soft * objective.weight
                    if objective.tau_squared:
                        weight *= tau**2
                    p, t = ours.at(tau), theirs.at(tau)
                    t = revised(target.revise, t, p, labels_C1, target.progress)
                    loss_C1, tables = DIVERGENCES[type(objective)](objective, p, t)
                    if weight_C1 is not None:
                        loss_C1 = loss_C1 * weight_C1
                    loss = loss_C1.sum()
                    sum_of_losses += loss
                    total += weight * loss
                    scale = weight / tau if weight_C1 is None else weight / tau * weight_C1
                    gradient += [(scale * factor, table_CV) for factor, table_CV in tables]
            if gradient_NV is not None:
                gradient_CV = _summed(gradient)
                gradient_CV.scatter_add_(
                    1, labels_C1, gradient_CV.new_full(labels_C1.shape, -weights.hard)
                )
                gradient_NV[rows] = gradient_CV
        ctx.save_for_backward(gradient_NV)
        ctx.mark_non_differentiable(terms)
        return total + weights.hard * hard, terms

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, grad_terms: Tensor) -> Any:
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV * grad_total, None, None, None, None


def _summed(parts: list[tuple[float | Tensor, Tensor]]) -> Tensor:
    """The sum of factor * table, in place of the first table; a factor is one number or (C, 1)."""
    (factor, first_CV), *others = parts
    for more, table_CV in others:
        if table_CV is first_CV:
            factor = factor + more
    first_CV.mul_(factor)
    for more, table_CV in others:
        if table_CV is not first_CV:
            if isinstance(more, Tensor):
                first_CV.addcmul_(table_CV, more)
            else:
                first_CV.add_(table_CV, alpha=more)
    return first_CV
