"""What a run costs in FLOPs, in three accounts, and what the stand-alone student has for as many.

Both questions are answered by interpolation over trainings of several lengths, each with its own
learning-rate schedule to its end: a point in the middle of a decaying schedule is none of a
training of that length. Losses are taken to be piecewise linear in the logarithm of the FLOPs,
which for one student is that of its steps. Nothing is extrapolated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate

import numpy as np

from dwt_cli.track.metrics import first_at

Points = Sequence[tuple[float, float]]  # (FLOPs, final held-out loss), the cheapest first

_SAME = 1e-6  # FLOPs that differ by less, relatively, are of the same training


class Account(Enum):
    """Whose FLOPs are counted; each account holds what those before it do."""

    STUDENT = "the student's FLOPs"
    FORWARD = "with the teacher's forward"
    WHOLE = "with its pre-training, too"

    @property
    def column(self) -> str:
        """Its name in results.csv."""
        return f"flops_{self.name.lower()}"


def flops(cost: Mapping[str, float | None]) -> dict[str, float]:
    """Return the FLOPs of a run in each account by its column, from `Summary.cost`.

    NaN where they are not known. WHOLE has what remapping learned, too, and a reference's
    pre-training. A teacher's is charged to each of its students in full, which is the hardest
    account. FORWARD has the calibration that says when to leave the teacher, and the scores that
    say what to read: they are spent on listening, as its passes are.
    """
    known = {key: math.nan if value is None else value for key, value in cost.items()}
    learned = known["teacher_pretraining_flops"] + known["remap_flops"]
    learned += known["reference_pretraining_flops"]
    finding = known["calibration_flops"] + known["scoring_flops"]
    listening = known["teacher_forward_flops"] + finding
    added = (known["student_flops"], listening, learned)
    return dict(zip((each.column for each in Account), accumulate(added), strict=True))


def loss_at(points: Points, budget: float) -> float | None:
    """The loss of a training with `budget` FLOPs; None below the shortest and above the longest."""
    if not points:
        return None
    costs, losses = zip(*points, strict=True)
    if not costs[0] * (1 - _SAME) <= budget <= costs[-1] * (1 + _SAME):
        return None
    return float(np.interp(math.log(budget), np.log(costs), losses))


@dataclass(frozen=True)
class Cost:
    """FLOPs, between two bounds.

    They are equal if the loss lies between two lengths; 0 below if the shortest is good enough;
    infinity above if the longest is not.
    """

    at_least: float
    at_most: float

    @property
    def exact(self) -> float | None:
        return self.at_least if self.at_least == self.at_most else None


def cost_to_reach(points: Points, loss: float) -> Cost | None:
    """The fewest FLOPs with which a training ends at `loss` or below; None without points."""
    if not points:
        return None
    if points[0][1] <= loss:
        return Cost(0.0, points[0][0])
    found = first_at(((math.log(cost), ends) for cost, ends in points), loss)
    return Cost(points[-1][0], math.inf) if found is None else Cost(*[math.exp(found)] * 2)


def crossings(points: Sequence[tuple[float, float]]) -> list[float]:
    """Where differences change sign: (x, difference) by rising x, joined linearly."""
    found: list[float] = []
    side = 0.0
    for number, (x, gap) in enumerate(points):
        if side * gap < 0:
            x_before, gap_before = points[number - 1]
            found.append(x_before + gap_before / (gap_before - gap) * (x - x_before))
        side = gap or side
    return found
