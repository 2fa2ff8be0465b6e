"""Laws of a ladder against slow versions, and against laws that are known."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from dwt_cli.study import forecast
from dwt_cli.study.forecast import Interval, Ladder, Law, drawn, fitted, one_left_out, small_sample

LENGTHS = (64, 128, 256)
TRUE = Law(256.0, 2.5, 0.45, (2.5, 2.4, 2.7), (0.0, 40.0, 100.0))


def losses(law: Law = TRUE, noise: float = 0.0, num_seeds: int = 2) -> Any:
    """Losses by arm, length and seed; luck is shared by the arms of one length and seed."""
    chance = np.random.default_rng(0)
    exact = np.array([[law.loss(arm, n) for n in LENGTHS] for arm in range(len(law.gaps))])
    luck = chance.normal(0, 2 * noise, (1, 3, num_seeds))
    return exact[..., None] + luck + chance.normal(0, noise, (len(exact), 3, num_seeds))


def objective(theta: Any, means: Any) -> float:
    """What a fit minimises, term by term."""
    num_arms, lowest, terms = len(means), means.min(), []
    share, log_power = theta[:2]
    for arm in range(num_arms):
        log_gap, start = theta[2 + arm], 0.0 if arm == 0 else theta[1 + num_arms + arm]
        for place, length in enumerate(LENGTHS):
            ratio = length / max(LENGTHS) + start
            value = share * lowest + math.exp(log_gap) * ratio ** -math.exp(log_power)
            terms.append((math.log(value) - math.log(means[arm, place])) / 0.003)
        if arm:
            terms += [(log_gap - theta[2]) / 0.2, start / 0.5]
    terms.append((log_power - math.log(0.4)) / 0.5)
    huber = [t * t if abs(t) <= 1 else 2 * abs(t) - 1 for t in terms]
    return sum(huber) / 2


def test_a_fit_is_not_beaten_by_a_search() -> None:
    means = losses(noise=0.01).mean(-1)
    law = fitted(LENGTHS, means)
    theta = [law.rest / means.min(), math.log(law.power), *map(math.log, law.gaps)]
    theta += [start / law.unit for start in law.starts[1:]]
    ours = objective(theta, means)
    for scale in (1e-3, 1e-2, 0.1):
        start = np.array(theta) * (1 + scale * np.random.default_rng(1).normal(size=len(theta)))
        found = optimize.minimize(
            objective, start, (means,), "Nelder-Mead", options={"maxfev": 2000}
        )
        assert ours <= found.fun + 1e-3


def test_a_law_is_found_again_and_forecasts_what_it_would_come_to() -> None:
    law = fitted(LENGTHS, losses().mean(-1))
    for arm in range(3):
        for length in LENGTHS:
            assert law.loss(arm, length) == pytest.approx(TRUE.loss(arm, length), abs=0.01)
        apart = law.loss(arm, 4000) - law.loss(0, 4000)
        assert apart == pytest.approx(TRUE.loss(arm, 4000) - TRUE.loss(0, 4000), abs=0.01)
        assert law.steps(arm, law.loss(arm, 1000.0)) == pytest.approx(1000)
    assert law.steps(0, law.rest) == math.inf
    late = Law(256.0, 2.5, 0.45, (2.5,), (-90.0,))
    assert late.loss(0, 80) > late.loss(0, 91) > 2.5  # a number, not a complex one


def test_an_interval_holds_the_truth_and_is_the_wider_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_NUM_DRAWS", 20)
    ladder = Ladder(LENGTHS, losses(noise=0.006))

    def of(law: Law) -> float:
        return law.loss(2, 4000) - law.loss(0, 4000)

    found, value = ladder.interval(of, 2), of(ladder.law)
    assert found.low <= of(TRUE) <= found.high and found.value == value
    reach = max(abs(of(law) - value) for law in ladder.without)
    moved = [of(law) - value for law in ladder.drawn]
    wide = small_sample(2, 3) * np.quantile(moved, [0.05, 0.95])
    assert found.high - value == pytest.approx(max(reach, wide[1]))
    assert value - found.low == pytest.approx(max(reach, -wide[0]))
    alone = Ladder(LENGTHS, losses(num_seeds=1)).interval(of, 2)
    assert math.isnan(alone.low) and math.isnan(alone.high) and not math.isnan(alone.value)


def test_one_run_is_where_new_seeds_fall() -> None:
    """By draws: means and spreads of two seeds at three lengths, and the run that they forecast."""
    chance, inside, apart_inside = np.random.default_rng(0), [], []
    for _ in range(2000):
        shared_LS, own_ALS = chance.normal(size=(3, 2)), chance.normal(size=(2, 3, 2))
        ladder = Ladder.__new__(Ladder)  # its law is known
        ladder.losses = 3 + 0.1 * shared_LS + 0.02 * own_ALS
        end, ends = chance.normal(), chance.normal(size=2)
        ours, theirs = 3 + 0.1 * end + 0.02 * ends
        loss = ladder.of_one_run(Interval(3.0, 3.0, 3.0), 1)
        apart = ladder.of_one_run(Interval(0.0, 0.0, 0.0), 1, against=0)
        inside.append(loss.low <= theirs <= loss.high)
        apart_inside.append(apart.low <= theirs - ours <= apart.high)
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)
    assert np.mean(apart_inside) == pytest.approx(0.9, abs=0.02)
    found = ladder.of_one_run(Interval(3.0, 2.0, 5.0), 1)
    assert found.high - 5.0 < 3.0 - loss.low and found.high > 5.0 and found.low < 2.0
    ladder.losses = ladder.losses[..., :1]
    assert ladder.of_one_run(Interval(3.0, 2.0, 5.0), 1) == Interval(3.0, 2.0, 5.0)


def test_seeds_are_drawn_for_all_arms_together() -> None:
    every = losses(noise=0.1)
    for means in list(drawn(every))[:20]:
        for place in range(3):
            ways = [every[:, place, list(each)].mean(-1) for each in np.ndindex(2, 2)]
            assert any(np.allclose(way, means[:, place]) for way in ways)
    assert not list(drawn(every[..., :1]))


def test_each_length_is_left_out_once() -> None:
    means = losses().mean(-1)
    left = list(one_left_out(means))
    assert [np.isnan(each).all(0).tolist() for each in left] == np.eye(3, dtype=bool).tolist()
    assert not np.isnan(means).any()


def test_few_seeds_widen_an_interval_as_student_has_it() -> None:
    wide = stats.t.ppf(0.95, 3) / 1.6448536 * math.sqrt(2)
    assert small_sample(2, 3) == pytest.approx(wide)
    assert small_sample(200, 3) == pytest.approx(1, abs=0.01)


def test_a_horizon_is_where_a_scan_finds_it() -> None:
    ladder = Ladder.__new__(Ladder)  # its law is known
    ladder.lengths, ladder.law = list(LENGTHS), TRUE

    def apart(law: Law, steps: float) -> float:
        return law.loss(2, steps) - law.loss(0, steps)

    scan = next(n for n in range(256, 100_000) if apart(TRUE, n) > 0)
    assert ladder.horizon(apart, 5000) == pytest.approx(scan, abs=1)
    assert ladder.horizon(lambda law, n: -1.0, 5000) is None
