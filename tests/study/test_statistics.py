"""Intervals, corrections and verdicts, against their definitions."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dwt_cli.study.comparisons import Difference, difference, holm, p_value, verdict
from dwt_cli.study.record import Claim, Expect


def test_the_interval_and_p_by_their_formulas() -> None:
    pairs = [-0.07, -0.02, -0.11, 0.01, -0.05]
    found = difference(pairs)
    assert found is not None and found.low is not None and found.high is not None
    mean = sum(pairs) / 5
    deviation = math.sqrt(sum((x - mean) ** 2 for x in pairs) / 4)
    half = 2.7764451051977987 * deviation / math.sqrt(5)  # the table's t at 4 degrees of freedom
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    t = mean / (deviation / math.sqrt(5))
    grid = np.linspace(-abs(t), abs(t), 200_001)
    density = stats.t(4).pdf(grid)
    assert found.p == pytest.approx(1 - np.trapezoid(density, grid), abs=1e-9)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(0)
    inside = small_p = 0
    for _ in range(600):
        found = difference([draw.gauss(0.3, 2.0) for _ in range(4)])
        assert found is not None and found.low is not None and found.high is not None
        inside += found.low <= 0.3 <= found.high
        null = difference([draw.gauss(0.0, 2.0) for _ in range(4)])
        assert null is not None and null.p is not None
        small_p += null.p < 0.05
    assert 0.93 < inside / 600 < 0.97
    assert 0.03 < small_p / 600 < 0.07


def test_little_to_compare() -> None:
    assert difference([]) is None
    assert difference([0.5]) == Difference(0.5, 1)
    assert difference([0.0, 0.0]) == Difference(0.0, 2, 0.0, 0.0, 1.0)
    rounded = 0.5 - 0.4
    assert rounded != 0.1
    found = difference([rounded, 0.1])
    assert found is not None and found.low == found.high == found.mean == pytest.approx(0.1)
    assert found.p == 0.0
    assert difference([0.25, 0.25, 0.25]) == Difference(0.25, 3, 0.25, 0.25, 0.0)


def rejected_by_holm(ps: list[float], level: float) -> set[int]:
    """Step by step: the smallest p against level / m, the next against level / (m - 1), ..."""
    left, rejected = dict(enumerate(ps)), set()
    while left:
        smallest = min(left, key=left.__getitem__)
        if left[smallest] > level / len(left):
            break
        rejected.add(smallest)
        del left[smallest]
    return rejected


def test_holm_by_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    draw = random.Random(1)
    for _ in range(300):
        ps = [draw.random() ** 3 for _ in range(draw.randint(1, 9))]
        adjusted = holm(ps)
        for level in (0.01, 0.05, 0.2, 0.7):
            assert {i for i, p in enumerate(adjusted) if p <= level} == rejected_by_holm(ps, level)


@pytest.mark.parametrize(
    ("found", "p", "expect", "said"),
    [
        (Difference(-0.1, 5, -0.12, -0.08, 0.001), 0.01, "lower", "supported"),
        (Difference(-0.1, 5, -0.12, -0.08, 0.001), 0.01, "higher", "contradicted"),
        (Difference(0.1, 5, 0.08, 0.12, 0.001), 0.01, "higher", "supported"),
        (Difference(0.1, 5, 0.08, 0.12, 0.001), 0.06, "higher", "undecided"),
        (Difference(0.01, 5, 0.005, 0.015, 0.0001), 0.001, "higher", "no difference"),
        (Difference(0.01, 5, 0.005, 0.021, 0.0001), 0.001, "higher", "supported"),
        (Difference(0.0, 5, -0.03, 0.03, 1.0), 1.0, "higher", "undecided"),
        (Difference(0.5, 1), 1.0, "higher", "undecided (one seed)"),
        (None, 1.0, "higher", "undecided (no pair of runs)"),
        (Difference(0.004, 5, 0.0, 0.008, 0.05), 0.01, "not_higher", "supported"),
        (Difference(0.004, 5, 0.0, 0.012, 0.05), 0.06, "not_higher", "undecided"),
        (Difference(0.03, 5, 0.012, 0.048, 0.01), 1.0, "not_higher", "contradicted"),
        (Difference(-0.03, 5, -0.048, -0.012, 0.01), 0.9, "equal", "contradicted"),
        (Difference(-0.03, 5, -0.048, -0.012, 0.01), 0.02, "not_higher", "supported"),
    ],
)
def test_verdicts(found: Difference | None, p: float, expect: str, said: str) -> None:
    claim = Claim("it is so", "one", "other", Expect[expect])
    assert verdict(found, p, claim, 0.02) == said


@pytest.mark.parametrize("expect", ["lower", "not_higher", "equal"])
def test_a_p_value_by_its_interval(expect: str) -> None:
    """It is 1 - c where the interval that is as sure as c just ends at what is tested."""
    draw, claim = random.Random(4), Claim("it is so", "one", "other", Expect[expect], within=0.05)
    for _ in range(20):
        pairs = [draw.gauss(0.02, 0.05) for _ in range(5)]
        center, scale = np.mean(pairs), np.std(pairs, ddof=1) / math.sqrt(5)

        def beyond(edge: float, center: float = center, scale: float = scale) -> float:
            return float(stats.t.sf((edge - center) / scale, 4))

        expected = {
            "lower": 2 * min(beyond(0.0), 1 - beyond(0.0)),
            "not_higher": beyond(0.05),
            "equal": max(beyond(0.05), 1 - beyond(-0.05)),
        }
        assert p_value(pairs, claim) == pytest.approx(expected[expect])
    assert p_value([0.3], claim) == 1
    assert p_value([0.01] * 3, claim) == (0 if expect != "lower" else difference([0.01] * 3).p)
    assert p_value([0.06] * 3, replace(claim, expect=Expect.equal)) == 1
    assert p_value([-0.06] * 3, replace(claim, expect=Expect.equal)) == 1
    assert p_value([-0.06] * 3, replace(claim, expect=Expect.not_higher)) == 0
