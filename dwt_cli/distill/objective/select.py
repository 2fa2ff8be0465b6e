"""Selections of the target rows on which the soft loss counts. Imports no torch.

Legend: C rows of one chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.options import between
from dwt_cli.distill.objective.base import Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Select(ABC):
    """A rule by which rows count. leaves_out: whether there may be rows that do not."""

    leaves_out: ClassVar[bool] = True

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
    """Rows in which the label is the teacher's likeliest token."""

    def select(self, rows: Rows) -> Tensor:
        return rows.teacher.scores_CV.gather(1, rows.labels_C1) >= rows.teacher.top_C1


@dataclass
class Confident(Select):
    """Rows in which the teacher's likeliest token has a probability of ``threshold`` or more."""

    threshold: float = between(0.0, 1.0, 0.5)

    def select(self, rows: Rows) -> Tensor:
        return (rows.teacher.top_C1 - rows.teacher.log_z_C1).exp() >= self.threshold


SELECTIONS: dict[str, type[Select]] = {
    "all": AllRows,
    "gate": Gate,
    "correct": Correct,
    "confident": Confident,
}
