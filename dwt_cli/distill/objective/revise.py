"""Revisions of the teacher's distribution, before the student is compared with it.

The result is a target without a gradient. Imports no torch. Legend: C rows of one chunk,
V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.options import above, between
from dwt_cli.distill.objective.base import Distribution, Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Revise(ABC):
    """A rule that changes the teacher's distribution."""

    @abstractmethod
    def revise(self, rows: Rows) -> Distribution:
        """Return the teacher's distribution revised, at the rows' temperature."""


@dataclass
class NoRevision(Revise):
    """The teacher's distribution as it is."""

    tag: ClassVar[str] = "Revise"

    def revise(self, rows: Rows) -> Distribution:
        assert isinstance(rows.teacher, Distribution)
        return rows.teacher


@dataclass
class LabelRevision(Revise):
    """b t + (1 - b) label, b = eta / (t_max - t_label + 1) (arXiv 2404.03693, section 3).

    With eta < 1 the label ends up as the likeliest token in every row.
    """

    eta: float = above(0, 0.9, below=1)

    def revise(self, rows: Rows) -> Distribution:
        assert isinstance(rows.teacher, Distribution)
        t_CV = rows.teacher.probabilities_CV
        above_C1 = t_CV.amax(-1, keepdim=True) - t_CV.gather(1, rows.labels_C1)
        return _mixed(t_CV, self.eta / (above_C1 + 1), rows.labels_C1)


@dataclass
class ConfidenceMix(Revise):
    """(1 - a) t + a * the student's likeliest token; a rises to ``most`` within a share of the run.

    warmup: that share (arXiv 2312.09390).
    """

    most: float = between(0.0, 1.0, 0.5)
    warmup: float = between(0.0, 1.0, 0.1)

    def revise(self, rows: Rows) -> Distribution:
        assert isinstance(rows.teacher, Distribution)
        risen = rows.progress / self.warmup if self.warmup else 1.0
        # compiled, progress is a tensor
        risen = min(risen, 1.0) if isinstance(risen, float) else risen.clamp(max=1.0)
        keep_C1 = rows.teacher.log_z_C1.new_ones(rows.labels_C1.shape) * (1 - self.most * risen)
        likeliest_C1 = rows.student.scores_CV.argmax(-1, keepdim=True)
        return _mixed(rows.teacher.probabilities_CV, keep_C1, likeliest_C1)


def _mixed(t_CV: Tensor, keep_C1: Tensor, tokens_C1: Tensor) -> Distribution:
    """Return keep * t + (1 - keep) * one-hot(token)."""
    mixed_CV = (t_CV * keep_C1).scatter_add(1, tokens_C1, 1 - keep_C1)
    scores_CV = mixed_CV.clamp_min(1e-38).log()
    zeros_C1 = scores_CV.new_zeros(keep_C1.shape)
    return Distribution(scores_CV, mixed_CV, scores_CV.amax(-1, keepdim=True), log_z_C1=zeros_C1)


REVISIONS: dict[str, type[Revise]] = {
    "none": NoRevision,
    "label_revision": LabelRevision,
    "confidence_mix": ConfidenceMix,
}
