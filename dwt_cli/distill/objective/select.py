"""On which target rows the soft loss counts.

Legend: C rows of one chunk.
"""

from torch import Tensor

from dwt_cli.distill.objective.divergences import Distribution
from dwt_cli.distill.objective.options import Confident, Correct, Gate, Select


def selected(
    options: Select, ours: Distribution, theirs: Distribution, labels_C1: Tensor
) -> Tensor | None:
    """A weight of 0 or 1 per row (C, 1), fp32; None: all rows count.

    ours, theirs: the student's and the teacher's distribution at temperature 1.
    """
    if isinstance(options, Gate):
        chosen_C1 = theirs.log_probability(labels_C1) > ours.log_probability(labels_C1)
    elif isinstance(options, Correct):
        chosen_C1 = theirs.scores_CV.gather(1, labels_C1) >= theirs.top_C1
    elif isinstance(options, Confident):
        chosen_C1 = (theirs.top_C1 - theirs.log_z_C1).exp() >= options.threshold
    else:
        return None
    return chosen_C1.float()
