"""Equations 1 to 3 of the paper (arXiv 2305.18239, section 2) over target rows.

Softmax and sums are in fp32 whatever the models compute in. Losses are sums over rows, in nats.
Legend: N target rows, V vocabulary, C rows of one chunk.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dwt_cli.alpha import Weights
from dwt_cli.config import Objective

_CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}  # on a CPU a chunk's fp32 rows stay in the cache


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
        step = max(1, _CHUNK_BYTES[student_NV.device.type] // (4 * vocab_size))
        gradient_NV = torch.empty_like(student_NV)
        terms = student_NV.new_zeros(4, dtype=torch.float32)
        for start in range(0, num_rows, step):
            rows = slice(start, start + step)
            labels_C1 = labels_N[rows, None]
            scores_CV = student_NV[rows].float()
            logp_CV = scores_CV.log_softmax(-1)
            label_logp_C1 = logp_CV.gather(1, labels_C1)
            terms[0] -= label_logp_C1.sum()
            terms[3] += (label_logp_C1 >= logp_CV.amax(-1, keepdim=True)).sum()
            if teacher_NV is None:
                chunk_CV = logp_CV.exp_().mul_(hard_weight)
            else:
                theirs_CV = teacher_NV[rows].float()
                target_logp_CV = theirs_CV.log_softmax(-1)
                terms[2] -= target_logp_CV.gather(1, labels_C1).sum()
                if tau == 1:
                    soft_logp_CV = logp_CV
                else:
                    soft_logp_CV = (scores_CV / tau).log_softmax(-1)
                    target_logp_CV = (theirs_CV / tau).log_softmax(-1)
                target_CV = target_logp_CV.exp()
                terms[1] += torch.dot(
                    target_CV.flatten(), target_logp_CV.sub_(soft_logp_CV).flatten()
                )
                if tau == 1:
                    chunk_CV = logp_CV.exp_().mul_(hard_weight + soft_weight)
                else:
                    chunk_CV = logp_CV.exp_().mul_(hard_weight)
                    chunk_CV.add_(soft_logp_CV.exp_(), alpha=soft_weight / tau)
                chunk_CV.sub_(target_CV, alpha=soft_weight / tau)
            chunk_CV.scatter_add_(1, labels_C1, chunk_CV.new_full(labels_C1.shape, -hard_weight))
            gradient_NV[rows] = chunk_CV
        ctx.save_for_backward(gradient_NV)
        ctx.mark_non_differentiable(terms)
        return hard_weight * terms[0] + soft_weight * terms[1], terms

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, grad_terms: Tensor) -> Any:
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV * grad_total, None, None, None, None, None
