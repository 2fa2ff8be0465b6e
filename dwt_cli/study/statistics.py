"""Differences over seeds: their mean and how sure it is; many claims at once; verdicts.

Arms of one seed share text, batches and the initial student, so they are compared in pairs: a
difference is taken seed by seed, and Student's t is taken over the differences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dwt_cli.study.options import Expect

CONFIDENCE = 0.95
SIGNIFICANT = 0.05

SUPPORTED, CONTRADICTED = "supported", "contradicted"
NO_DIFFERENCE, UNDECIDED = "no difference", "undecided"


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences. low, high: the ends of its 95% interval; p: two-sided,
    against 0. All three are None below two pairs."""

    mean: float
    num_pairs: int
    low: float | None = None
    high: float | None = None
    p: float | None = None


def difference(pairs: Sequence[float]) -> Difference | None:
    """Return the mean difference over seeds and its interval; None where there is no seed.

    The interval of equal differences is a point.
    """
    if not len(pairs):
        return None
    mean, num = float(np.mean(pairs)), len(pairs)
    if num < 2:
        return Difference(mean, num)
    if math.isclose(min(pairs), max(pairs), abs_tol=1e-12):  # equal but for rounding
        return Difference(mean, num, mean, mean, 1.0 if abs(mean) < 1e-12 else 0.0)
    tested = stats.ttest_1samp(pairs, 0.0)
    interval = tested.confidence_interval(CONFIDENCE)
    return Difference(mean, num, float(interval.low), float(interval.high), float(tested.pvalue))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given (Holm 1979, Scand. J. Statist. 6:65).

    Of m values in rising order the k-th (from 0) is multiplied by m - k; none is below the one
    before it, and none is above 1.
    """
    adjusted, floor = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        floor = max(floor, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = floor
    return adjusted


def verdict(
    found: Difference | None,
    adjusted_p: float,
    expect: Expect,
    smallest_effect: float,
) -> str:
    """What becomes of a claim, by the rule that the report prints."""
    if found is None:
        return f"{UNDECIDED} (no pair of runs)"
    if found.low is None or found.high is None:
        return f"{UNDECIDED} (one seed)"
    if -smallest_effect <= found.low and found.high <= smallest_effect:
        return NO_DIFFERENCE
    if not adjusted_p < SIGNIFICANT:
        return UNDECIDED
    return SUPPORTED if (found.mean < 0) == (expect is Expect.lower) else CONTRADICTED
