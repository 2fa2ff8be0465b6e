"""Accounts and interpolation, by hand."""

import math
from typing import Any

import pytest

from dwt_cli.study.compute import Account, Cost, cost_to_reach, crossings, flops, loss_at

POINTS = [(100.0, 6.0), (400.0, 5.0), (1600.0, 4.6)]


def test_three_accounts() -> None:
    cost: dict[str, Any] = {
        "student_flops": 100,
        "teacher_forward_flops": 20,
        "teacher_pretraining_flops": 40,
        "remap_flops": 3,
        "calibration_flops": 0.0,
        "scoring_flops": 0.0,
        "reference_pretraining_flops": 0,
    }
    assert list(flops(cost)) == [account.column for account in Account]
    assert list(flops(cost).values()) == [100, 120, 163]
    assert list(flops(cost | {"calibration_flops": 7}).values()) == [100, 127, 170]
    assert list(flops(cost | {"scoring_flops": 5}).values()) == [100, 125, 168]
    assert list(flops(cost | {"reference_pretraining_flops": 9}).values()) == [100, 120, 172]
    cost["teacher_pretraining_flops"] = None  # a downloaded teacher
    assert list(flops(cost).values()) == pytest.approx([100, 120, math.nan], nan_ok=True)


def test_the_loss_at_a_budget() -> None:
    assert [loss_at(POINTS, cost) for cost, _ in POINTS] == pytest.approx([6.0, 5.0, 4.6])
    assert loss_at(POINTS, 200) == pytest.approx(5.5)  # half way from 100 to 400, in logarithms
    assert loss_at(POINTS, 1600 * 0.5) == pytest.approx(4.8)
    assert loss_at(POINTS, 400 * 4 ** (1 / 4)) == pytest.approx(4.9)
    assert loss_at(POINTS, 99) is None
    assert loss_at(POINTS, 1601) is None
    assert loss_at(POINTS, 1600 * (1 + 1e-9)) == pytest.approx(4.6), "rounding is no longer run"
    assert loss_at([], 100) is None


def test_the_cost_of_a_loss() -> None:
    for loss in (5.9, 5.5, 5.0, 4.7, 4.6):
        cost = cost_to_reach(POINTS, loss)
        assert cost is not None and cost.exact is not None
        assert loss_at(POINTS, cost.exact) == pytest.approx(loss)
    assert cost_to_reach(POINTS, 5.5) == Cost(pytest.approx(200), pytest.approx(200))
    assert cost_to_reach(POINTS, 6.5) == Cost(0.0, 100.0)
    assert cost_to_reach(POINTS, 4.5) == Cost(1600.0, math.inf)
    assert cost_to_reach([], 4.5) is None


def test_a_longer_run_that_is_worse_does_not_count() -> None:
    bumpy = [(100.0, 6.0), (200.0, 6.5), (400.0, 5.5), (800.0, 5.6)]
    cost = cost_to_reach(bumpy, 6.0)
    assert cost == Cost(0.0, 100.0)
    cost = cost_to_reach(bumpy, 5.75)
    assert cost is not None and cost.exact == pytest.approx(200 * 2**0.75)


@pytest.mark.parametrize(
    ("points", "where"),
    [
        ([], []),
        ([(0, 1)], []),
        ([(0, 1), (1, 2)], []),
        ([(0, 1), (1, -1)], [0.5]),
        ([(0, -1), (4, 3), (6, -1)], [1.0, 5.5]),
        ([(0, 1), (1, 0), (3, -1)], [1.0]),
        ([(0, 1), (1, 0), (3, 1)], []),
        ([(0, 0), (1, -1)], []),
    ],
)
def test_crossings(points: list[tuple[float, float]], where: list[float]) -> None:
    assert crossings(points) == pytest.approx(where)
