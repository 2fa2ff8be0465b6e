"""Selections of the target rows on which the soft loss counts. Imports no torch.

Legend: C rows of one chunk, N all held-out target rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.options import above, at_least, between
from dwt_cli.distill.objective.base import Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Select(ABC):
    """A rule by which rows count. leaves_out: whether there may be rows that do not."""

    leaves_out: ClassVar[bool] = True

    def fitted(self, entropies_N: Callable[[], Tensor]) -> Select:
        """Return it for a teacher with these entropies, in nats, on the held-out text."""
        return self

    @abstractmethod
    def select(self, rows: Rows) -> Tensor | None:
        """Return which rows, at temperature 1, count: bool (C, 1); None: all."""


@dataclass
class AllRows(Select):
    """Every row counts."""

    tag: ClassVar[str] = "Select"
    leaves_out: ClassVar[bool] = False

    def select(self, rows: Rows) -> None:
        return None


@dataclass
class Gate(Select):
    """Rows in which the teacher gives the label more probability than the student does."""

    def select(self, rows: Rows) -> Tensor:
        label_C1 = rows.labels_C1
        return rows.teacher.log_probability(label_C1) > rows.student.log_probability(label_C1)


@dataclass
class Correct(Select):
    """Rows in which the label is the teacher's likeliest token; others harm (arXiv 2605.23857)."""

    def select(self, rows: Rows) -> Tensor:
        return rows.teacher.is_likeliest(rows.labels_C1)


@dataclass
class Confident(Select):
    """Rows in which the teacher's likeliest token has a probability of ``threshold`` or more."""

    threshold: float = between(0.0, 1.0, 0.5)

    def select(self, rows: Rows) -> Tensor:
        return rows.teacher.log_confidence().exp() >= self.threshold


@dataclass
class Uncertain(Select):
    """All rows but the ``share`` with the lowest entropy of the teacher (arXiv 2509.01649).

    Token routing there: soft labels on such rows cost copying from the context. The share is of
    the held-out rows, once, so that a row counts or not whatever batch it is in.
    entropy: the lowest that counts, in nats; null: that quantile.
    """

    share: float = above(0, 0.15, below=1)
    entropy: float | None = at_least(0, None)

    def fitted(self, entropies_N: Callable[[], Tensor]) -> Select:
        if self.entropy is not None:
            return self
        found_N = entropies_N()
        lowest = found_N.kthvalue(int(self.share * len(found_N)) + 1).values.item()
        return replace(self, entropy=lowest)

    def select(self, rows: Rows) -> Tensor:
        assert self.entropy is not None, "it is fitted first"
        return rows.teacher.entropy() >= self.entropy


SELECTIONS: dict[str, type[Select]] = {
    "all": AllRows,
    "gate": Gate,
    "correct": Correct,
    "confident": Confident,
    "uncertain": Uncertain,
}
