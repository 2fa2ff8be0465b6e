"""How far two distributions over the vocabulary are apart, with the gradient in closed form.

A divergence returns its value per row (C, 1), in nats, and its gradient with respect to the
student's scores as a sum of tables (C, V), each with a factor. Everything is in fp32.
Legend: C rows of one chunk, V vocabulary, K tokens that are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dwt_cli.distill.objective.options import (
    Distributions,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SquaredError,
    TopK,
)


@dataclass(frozen=True)
class Distribution:
    """The softmax of scores. ``top``: the highest score; a log-probability is a score - log Z."""

    scores_CV: Tensor
    probabilities_CV: Tensor
    top_C1: Tensor
    log_z_C1: Tensor

    @classmethod
    def of(cls, scores_CV: Tensor) -> "Distribution":
        """The largest probability is exp(top - log Z): log Z costs no second pass of exp."""
        probabilities_CV = scores_CV.softmax(-1)
        top_C1 = scores_CV.amax(-1, keepdim=True)
        log_z_C1 = top_C1 - probabilities_CV.amax(-1, keepdim=True).log()
        return cls(scores_CV, probabilities_CV, top_C1, log_z_C1)

    def at(self, tau: float | Tensor) -> "Distribution":
        """The distribution at a temperature."""
        return Distribution.of(self.scores_CV / tau)

    def log_probabilities(self) -> Tensor:
        return self.scores_CV - self.log_z_C1

    def log_probability(self, tokens_C1: Tensor) -> Tensor:
        """Of one token per row, (C, 1)."""
        return self.scores_CV.gather(1, tokens_C1) - self.log_z_C1


Gradient = list[tuple[float, Tensor]]
Divergence = Callable[[Any, Distribution, Distribution], tuple[Tensor, Gradient]]


def _forward_kl(options: ForwardKL, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
    """sum t (log t - log p); gradient p - t."""
    excess_CV = (t.scores_CV - p.scores_CV).mul_(t.probabilities_CV)
    loss_C1 = excess_CV.sum(-1, keepdim=True) - (t.log_z_C1 - p.log_z_C1)
    return loss_C1, [(1.0, p.probabilities_CV), (-1.0, t.probabilities_CV)]


def _reverse_kl(options: ReverseKL, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
    """sum p (log p - log t) = L; gradient p (log p - log t - L)."""
    ratio_CV = p.log_probabilities() - t.log_probabilities()
    loss_C1 = (p.probabilities_CV * ratio_CV).sum(-1, keepdim=True)
    return loss_C1, [(1.0, p.probabilities_CV * (ratio_CV - loss_C1))]


def _jensen_shannon(
    options: JensenShannon, p: Distribution, t: Distribution
) -> tuple[Tensor, Gradient]:
    """beta KL(t || m) + (1 - beta) KL(p || m), m = beta t + (1 - beta) p (arXiv 2306.13649, eq. 1).

    Gradient (1 - beta) p (log p - log m - KL(p || m)).
    """
    beta = options.beta
    log_mixture_CV = p.probabilities_CV.lerp(t.probabilities_CV, beta).log()
    ratio_CV = p.log_probabilities() - log_mixture_CV
    ours_C1 = (p.probabilities_CV * ratio_CV).sum(-1, keepdim=True)
    theirs_CV = t.probabilities_CV * (t.log_probabilities() - log_mixture_CV)
    loss_C1 = beta * theirs_CV.sum(-1, keepdim=True) + (1 - beta) * ours_C1
    return loss_C1, [(1 - beta, p.probabilities_CV * (ratio_CV - ours_C1))]


def _squared_error(
    options: SquaredError, p: Distribution, t: Distribution
) -> tuple[Tensor, Gradient]:
    """Mean over the vocabulary of the squared difference of the scores (arXiv 2105.08919)."""
    difference_CV = p.scores_CV - t.scores_CV
    loss_C1 = difference_CV.square().mean(-1, keepdim=True)
    return loss_C1, [(2 / difference_CV.shape[1], difference_CV)]


def _top_k(options: TopK, p: Distribution, t: Distribution) -> tuple[Tensor, Gradient]:
    """Forward KL over the teacher's k likeliest tokens and one bucket with all the others' mass.

    Gradient p - t on the k tokens, p (1 - t_rest / p_rest) on the others. Without the bucket the
    k tokens alone would ask for over-confidence.
    """
    kept_CK = t.probabilities_CV.topk(options.k, dim=-1).indices
    t_CK, p_CK = t.probabilities_CV.gather(1, kept_CK), p.probabilities_CV.gather(1, kept_CK)
    kept_ratio_CK = t.log_probabilities().gather(1, kept_CK) - p.log_probabilities().gather(
        1, kept_CK
    )
    t_rest_C1, p_rest_C1 = _mass_of_rest(t, kept_CK), _mass_of_rest(p, kept_CK)
    ratio_C1 = t_rest_C1 / p_rest_C1
    ours_CV = p.probabilities_CV * (1 - ratio_C1)
    ours_CV.scatter_(1, kept_CK, p_CK - t_CK)
    loss_C1 = (t_CK * kept_ratio_CK).sum(-1, keepdim=True) + t_rest_C1 * ratio_C1.log()
    return loss_C1, [(1.0, ours_CV)]


def _mass_of_rest(distribution: Distribution, kept_CK: Tensor) -> Tensor:
    """What the other tokens have; summed over them, since 1 - (the kept) would cancel."""
    rest_CV = distribution.probabilities_CV.scatter(1, kept_CK, 0.0)
    return rest_CV.sum(-1, keepdim=True).clamp_min(1e-30)


DIVERGENCES: dict[type[Distributions], Divergence] = {
    ForwardKL: _forward_kl,
    ReverseKL: _reverse_kl,
    JensenShannon: _jensen_shannon,
    SquaredError: _squared_error,
    TopK: _top_k,
}
