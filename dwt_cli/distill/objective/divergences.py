"""Divergences of two distributions over the vocabulary, with the gradient in closed form.

Imports no torch. Legend: C rows of one chunk, V vocabulary, K tokens that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwt_cli.base.options import at_least, between
from dwt_cli.distill.objective.base import (
    Distribution,
    Divergence,
    EntryGradient,
    EntryRows,
    Gradient,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ForwardKL(Divergence):
    """KL(teacher || student), eq. 2: sum t (log t - log p); gradient p - t."""

    def compare(self, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
        excess_CV = (t.scores_CV - p.scores_CV).mul_(t.probabilities_CV)
        loss_C1 = excess_CV.sum(-1, keepdim=True) - (t.log_z_C1 - p.log_z_C1)
        return loss_C1, [(1.0, p.probabilities_CV), (-1.0, t.probabilities_CV)]

    def compare_entries(self, p: Distribution, t: EntryRows) -> tuple[Tensor, EntryGradient]:
        """Return eq. 2 with weights s instead of t, and t's entropy; gradient (sum s) p - s.

        With a share of a centroid the sum is one in expectation, and taken as one; of the gradient
        that share is left to whoever knows the centroid.
        """
        crossed_C1 = -(t.weights_CK * p.log_probability(t.ids_CK)).sum(-1, keepdim=True)
        sum_C1 = t.weights_CK.sum(-1, keepdim=True)
        if t.shares_C1 is not None and t.scores_C1 is not None:
            crossed_C1 = crossed_C1 + (1 - sum_C1) * p.log_z_C1 - t.shares_C1 * t.scores_C1
            sum_C1 = sum_C1.new_ones(sum_C1.shape)
        return crossed_C1 - t.entropies_C1, (sum_C1, -t.weights_CK)


@dataclass
class ReverseKL(Divergence):
    """KL(student || teacher): sum p (log p - log t) = L; gradient p (log p - log t - L)."""

    def compare(self, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
        ratio_CV = p.log_probabilities() - t.log_probabilities()
        loss_C1 = (p.probabilities_CV * ratio_CV).sum(-1, keepdim=True)
        return loss_C1, [(1.0, p.probabilities_CV * (ratio_CV - loss_C1))]


@dataclass
class JensenShannon(Divergence):
    """beta KL(t || m) + (1 - beta) KL(p || m), m = beta t + (1 - beta) p (arXiv 2306.13649, eq. 1).

    beta: the teacher's share of the mixture m. Gradient (1 - beta) p (log p - log m - KL(p || m)).
    """

    beta: float = between(0.01, 0.99, 0.5)

    def compare(self, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
        log_mixture_CV = p.probabilities_CV.lerp(t.probabilities_CV, self.beta).log()
        ratio_CV = p.log_probabilities() - log_mixture_CV
        student_C1 = (p.probabilities_CV * ratio_CV).sum(-1, keepdim=True)
        teacher_CV = t.probabilities_CV * (t.log_probabilities() - log_mixture_CV)
        loss_C1 = self.beta * teacher_CV.sum(-1, keepdim=True) + (1 - self.beta) * student_C1
        return loss_C1, [(1 - self.beta, p.probabilities_CV * (ratio_CV - student_C1))]


@dataclass
class SquaredError(Divergence):
    """Mean over the vocabulary of the squared difference of the scores (arXiv 2105.08919)."""

    def compare(self, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
        difference_CV = p.scores_CV - t.scores_CV
        loss_C1 = difference_CV.square().mean(-1, keepdim=True)
        return loss_C1, [(2 / difference_CV.shape[1], difference_CV)]


@dataclass
class TopK(Divergence):
    """Forward KL over k + 1 outcomes: the teacher's k likeliest tokens, and the rest as one.

    Gradient p - t on the k tokens, p (1 - t_rest / p_rest) on the others. Without the bucket of the
    rest the k tokens alone would ask for over-confidence.
    """

    k: int = at_least(1, 10)

    def compare(self, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
        kept_CK = t.probabilities_CV.topk(self.k, dim=-1).indices
        t_CK, p_CK = t.probabilities_CV.gather(1, kept_CK), p.probabilities_CV.gather(1, kept_CK)
        kept_ratio_CK = t.log_probability(kept_CK) - p.log_probability(kept_CK)
        t_rest_C1, p_rest_C1 = _mass_of_rest(t, kept_CK), _mass_of_rest(p, kept_CK)
        ratio_C1 = t_rest_C1 / p_rest_C1
        gradient_CV = p.probabilities_CV * (1 - ratio_C1)
        gradient_CV.scatter_(1, kept_CK, p_CK - t_CK)
        loss_C1 = (t_CK * kept_ratio_CK).sum(-1, keepdim=True) + t_rest_C1 * ratio_C1.log()
        return loss_C1, [(1.0, gradient_CV)]

    def compare_entries(self, p: Distribution, t: EntryRows) -> tuple[Tensor, EntryGradient]:
        """The first k entries are the likeliest; what they lack of one is the rest's."""
        kept_CK, t_CK = t.ids_CK[:, : self.k], t.weights_CK[:, : self.k]
        p_CK = p.probabilities_CV.gather(1, kept_CK)
        p_rest_C1 = _mass_of_rest(p, kept_CK)
        t_rest_C1 = (1 - t_CK.sum(-1, keepdim=True)).clamp_min(0)
        ratio_C1 = t_rest_C1 / p_rest_C1
        kept_CK = t_CK.xlogy(t_CK) - t_CK * p.log_probability(kept_CK)
        loss_C1 = kept_CK.sum(-1, keepdim=True) + t_rest_C1.xlogy(ratio_C1)
        return loss_C1, (1 - ratio_C1, p_CK * ratio_C1 - t_CK)

    def problems_over(self, setting: str, vocab_size: int) -> Iterator[str]:
        if self.k >= vocab_size:
            yield f"{setting}.k={self.k}: it is below the {vocab_size} tokens or classes there are"


def _mass_of_rest(distribution: Distribution, kept_CK: Tensor) -> Tensor:
    """Return what the other tokens have; summed over them, since 1 - (the kept) would cancel."""
    rest_CV = distribution.probabilities_CV.scatter(1, kept_CK, 0.0)
    return rest_CV.sum(-1, keepdim=True).clamp_min(1e-30)


DIVERGENCES: dict[str, type[Divergence]] = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jensen_shannon": JensenShannon,
    "mse": SquaredError,
    "top_k": TopK,
}
