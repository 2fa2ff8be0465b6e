"""Equations 1 to 3 of the paper (arXiv 2305.18239, section 2) over target rows.

Softmax and sums are in fp32 whatever the models compute in. Losses are sums over rows, in nats.
Legend: N target rows, V vocabulary, C rows of one chunk.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dwt_cli.alpha import Weights
from dwt_cli.config import Objective

CHUNK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 28}  # on a CPU a chunk's fp32 rows stay in the cache


class Sums(NamedTuple):
    """Sums over the target rows, scalars in fp32; ``total`` alone carries a gradient.

    hard: cross-entropy with the label (eq. 1). soft: KL(teacher || student) at the temperature
    (eq. 2), the teacher's entropy included. teacher: the teacher's own cross-entropy with the
    label. correct: rows in which no logit is above the label's.
    """

    total: Tensor
    hard: Tensor
    soft: Tensor
    teacher: Tensor
    correct: Tensor


def distillation_sums(
    student_NV: Tensor,
    teacher_NV: Tensor | None,
    labels_N: Tensor,
    weights: Weights,
    objective: Objective,
) -> Sums:
    """alpha_hard * hard + alpha_soft * soft (eq. 3), and its terms.

    student_NV, teacher_NV: logits of any float type; no teacher: the soft terms are zero.
    labels_N: int64. With ``tau_squared`` the soft term of ``total`` is multiplied by the squared
    temperature (Hinton et al., 1503.02531); the paper has no such factor.
    """
    soft_weight = weights.soft
    if objective.tau_squared:
        soft_weight *= objective.temperature**2
    total, terms = _Distillation.apply(  # type: ignore[no-untyped-call]
        student_NV, teacher_NV, labels_N, weights.hard, soft_weight, objective.temperature
    )
    return Sums(total, *terms.unbind())


class _Distillation(torch.autograd.Function):
    """Losses and gradient in one pass over chunks of rows.

    The gradient with respect to the logits is known in closed form, so the forward pass writes
    it and no (N, V) table of log-probabilities is kept:
    hard (p - onehot) + soft / tau (p_tau - teacher_tau).
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_NV: Tensor,
        teacher_NV: Tensor | None,
        labels_N: Tensor,
        hard_weight: float,
        soft_weight: float,
        tau: float,
    ) -> tuple[Tensor, Tensor]:
        num_rows, vocab_size = student_NV.shape
        step = max(1, CHUNK_BYTES[student_NV.device.type] // (4 * vocab_size))
        gradient_NV = torch.empty_like(student_NV)
        hard, soft, teacher, correct = student_NV.new_zeros(4, dtype=torch.float32).unbind()
        for start in range(0, num_rows, step):
            rows = slice(start, start + step)
            labels_C1 = labels_N[rows, None]
            scores_CV = student_NV[rows].float()
            chunk_CV, top_C1, log_z_C1 = _softmax(scores_CV)
            label_C1 = scores_CV.gather(1, labels_C1)
            hard += (log_z_C1 - label_C1).sum()
            correct += (label_C1 >= top_C1).sum()
            if teacher_NV is None:
                chunk_CV.mul_(hard_weight)
            else:
                theirs_CV = teacher_NV[rows].float()
                target_CV, _, their_log_z_C1 = _softmax(theirs_CV)
                teacher += (their_log_z_C1 - theirs_CV.gather(1, labels_C1)).sum()
                if tau == 1:
                    chunk_CV.mul_(hard_weight + soft_weight)
                else:
                    scores_CV, theirs_CV = scores_CV / tau, theirs_CV / tau
                    soft_CV, _, log_z_C1 = _softmax(scores_CV)
                    target_CV, _, their_log_z_C1 = _softmax(theirs_CV)
                    chunk_CV.mul_(hard_weight).add_(soft_CV, alpha=soft_weight / tau)
                chunk_CV.sub_(target_CV, alpha=soft_weight / tau)
                excess_C = target_CV.mul_(theirs_CV - scores_CV).sum(-1)
                soft += (excess_C - (their_log_z_C1 - log_z_C1).squeeze(1)).sum()
            chunk_CV.scatter_add_(1, labels_C1, chunk_CV.new_full(labels_C1.shape, -hard_weight))
            gradient_NV[rows] = chunk_CV
        terms = torch.stack([hard, soft, teacher, correct])
        ctx.save_for_backward(gradient_NV)
        ctx.mark_non_differentiable(terms)
        return hard_weight * hard + soft_weight * soft, terms

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, grad_terms: Tensor) -> Any:
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV * grad_total, None, None, None, None, None


def _softmax(scores_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (C, V), the largest score (C, 1) and the log of the normaliser (C, 1).

    The largest probability is exp(top - log Z), so log Z costs no second pass of exponentials.
    """
    probabilities_CV = scores_CV.softmax(-1)
    top_C1 = scores_CV.amax(-1, keepdim=True)
    return probabilities_CV, top_C1, top_C1 - probabilities_CV.amax(-1, keepdim=True).log()
