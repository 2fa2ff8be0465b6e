"""Revisions of the teacher's distribution, before the student is compared with it.

The result is a target without a gradient. Imports no torch. Legend: C rows of one chunk,
V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.options import between, within
from dwt_cli.distill.objective.base import Distribution

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Revise(ABC):
    """A rule that changes the teacher's distribution."""

    @abstractmethod
    def revise(
        self, t: Distribution, p: Distribution, labels_C1: Tensor, progress: float | Tensor
    ) -> Distribution:
        """Return the teacher's t revised; p is the student's, progress a share of the run."""


@dataclass
class NoRevision(Revise):
    """The teacher's distribution as it is."""

    tag: ClassVar[str] = "Revise"

    def revise(
        self, t: Distribution, p: Distribution, labels_C1: Tensor, progress: float | Tensor
    ) -> Distribution:
        return t


@dataclass
class LabelRevision(Revise):
    """b t + (1 - b) label, b = eta / (t_max - t_label + 1) (arXiv 2404.03693, section 3).

    With eta < 1 the label ends up as the likeliest token in every row.
    """

    eta: float = within(0, 1, 0.9)

    def revise(
        self, t: Distribution, p: Distribution, labels_C1: Tensor, progress: float | Tensor
    ) -> Distribution:
        label_C1 = t.probabilities_CV.gather(1, labels_C1)
        highest_C1 = t.probabilities_CV.amax(-1, keepdim=True)
        return _mixed(t, self.eta / (highest_C1 - label_C1 + 1), labels_C1)


@dataclass
class ConfidenceMix(Revise):
    """(1 - a) t + a * the student's likeliest token; a rises to ``most`` within a share of the run.

    warmup: that share (arXiv 2312.09390).
    """

    most: float = between(0.0, 1.0, 0.5)
    warmup: float = between(0.0, 1.0, 0.1)

    def revise(
        self, t: Distribution, p: Distribution, labels_C1: Tensor, progress: float | Tensor
    ) -> Distribution:
        risen = progress / self.warmup if self.warmup else 1.0
        # compiled, progress is a tensor
        risen = min(risen, 1.0) if isinstance(risen, float) else risen.clamp(max=1.0)
        keep_C1 = t.log_z_C1.new_ones(t.log_z_C1.shape) * (1 - self.most * risen)
        return _mixed(t, keep_C1, p.scores_CV.argmax(-1, keepdim=True))


def _mixed(t: Distribution, keep_C1: Tensor, tokens_C1: Tensor) -> Distribution:
    """Return keep * t + (1 - keep) * one-hot(token)."""
    mixed_CV = (t.probabilities_CV * keep_C1).scatter_add(1, tokens_C1, 1 - keep_C1)
    scores_CV = mixed_CV.clamp_min(1e-38).log()
    return Distribution(
        scores_CV,
        mixed_CV,
        top_C1=scores_CV.amax(-1, keepdim=True),
        log_z_C1=scores_CV.new_zeros(keep_C1.shape),
    )


REVISIONS: dict[str, type[Revise]] = {
    "none": NoRevision,
    "label_revision": LabelRevision,
    "confidence_mix": ConfidenceMix,
}
