"""On which target rows the soft loss counts.

Legend: C rows of one chunk, V vocabulary.
"""

from typing import NamedTuple

from torch import Tensor

from dwt_cli.config import Confident, Correct, Gate, Select
from dwt_cli.objective.divergences import Distribution


class Rows(NamedTuple):
    """Log-probabilities at temperature 1: of the label by either model, of the teacher's choice."""

    student_C1: Tensor
    teacher_C1: Tensor
    top_C1: Tensor

    @classmethod
    def of(cls, ours: Distribution, theirs: Distribution, labels_C1: Tensor) -> "Rows":
        return cls(
            ours.scores_CV.gather(1, labels_C1) - ours.log_z_C1,
            theirs.scores_CV.gather(1, labels_C1) - theirs.log_z_C1,
            theirs.top_C1 - theirs.log_z_C1,
        )


def selected(options: Select, rows: Rows) -> Tensor | None:
    """A weight of 0 or 1 per row (C, 1), fp32; None: all rows count."""
    if isinstance(options, Gate):
        chosen_C1 = rows.teacher_C1 > rows.student_C1
    elif isinstance(options, Correct):
        chosen_C1 = rows.teacher_C1 >= rows.top_C1
    elif isinstance(options, Confident):
        chosen_C1 = rows.top_C1.exp() >= options.threshold
    else:
        return None
    return chosen_C1.float()
