import itertools
import math
from dataclasses import fields

import pytest

from dwt_cli.base.options import Range
from dwt_cli.distill.alpha import (
    SCHEDULES,
    Constant,
    Cosine,
    Crossover,
    Exponential,
    Linear,
    Overtake,
    Schedule,
    Step,
    Weights,
    Wsd,
)
from dwt_cli.training.protocols import Moment

MOMENTS = [Moment(step / 10) for step in range(10)]


def softs(schedule: Schedule) -> list[float]:
    return [schedule.weights(moment).soft for moment in MOMENTS]


def test_constant_is_the_papers_normal_and_strong() -> None:
    assert {Constant(hard=1, soft=4).weights(moment) for moment in MOMENTS} == {Weights(1, 4)}


def test_linear_goes_straight_from_soft_to_soft_end() -> None:
    schedule = Linear(hard=2, soft=4, soft_end=1)
    assert [schedule.weights(moment).hard for moment in MOMENTS] == [2] * 10
    assert softs(schedule) == pytest.approx([4.0, 3.7, 3.4, 3.1, 2.8, 2.5, 2.2, 1.9, 1.6, 1.3])


def test_knowledge_inheritance_hands_over_from_teacher_to_label() -> None:
    schedule = Linear(hard=0, hard_end=1, soft=1, soft_end=0, until=0.5)
    for moment in MOMENTS:
        teacher = max(1 - moment.progress / 0.5, 0)
        assert schedule.weights(moment) == pytest.approx((1 - teacher, teacher))


def test_cosine_is_level_at_its_ends() -> None:
    expected = [1 + 3 * 0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert softs(Cosine(soft=4, soft_end=1)) == pytest.approx(expected)


def test_exponential_has_one_factor_from_step_to_step() -> None:
    found = softs(Exponential(soft=4, soft_end=0.5))
    factors = {round(late / early, 12) for early, late in itertools.pairwise(found)}
    assert found[0] == 4
    assert factors == {round((0.5 / 4) ** 0.1, 12)}
    assert softs(Exponential(soft=2, soft_end=2)) == [2] * 10


def test_a_ramp_that_is_over_stays_where_it_came_to() -> None:
    assert softs(Linear(soft=4, soft_end=2, until=0.2)) == pytest.approx([4, 3] + [2] * 8)


def test_step_has_a_soft_weight_first_and_then_none() -> None:
    assert softs(Step(soft=3, until=0.4)) == [3] * 4 + [0] * 6


def test_wsd_follows_the_learning_rate() -> None:
    for lr in (0.0, 0.3, 1.0):
        assert Wsd(hard=2, soft=4).weights(Moment(0.5, lr)) == Weights(2, 4 * lr)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(soft=0),
        Constant(soft=0.1),
        Linear(soft=0, soft_end=0),
        Linear(soft=0, soft_end=1),
        Linear(soft=1, soft_end=0),
        Linear(soft=1, soft_end=0, until=0.35),
        Cosine(soft=1, soft_end=0, until=0.6),
        Exponential(soft=1, soft_end=0.1),
        Step(soft=0),
        Step(soft=1, until=0.5),
        Wsd(soft=0),
        Wsd(soft=1),
        Crossover(until=3, max_steps=10, fade=0.2),
        Crossover(until=9, max_steps=10, fade=0.3),
        Crossover(until=None, max_steps=10),
        Crossover(soft=0, until=3, max_steps=10),
    ],
    ids=str,
)
def test_soft_is_over_means_zero_from_here_on(schedule: Schedule) -> None:
    for number, moment in enumerate(MOMENTS):
        rest = [schedule.weights(later).soft for later in MOMENTS[number:]]
        assert schedule.soft_is_over(moment) == (not any(rest))


def test_overtake_follows_the_lag_and_ends_with_it() -> None:
    """Against the running mean written out, step by step."""
    schedule = Overtake(soft=4, full=2, span=4)
    lags = [3.0, 2.0, 1.0, 0.6, 0.1, -0.4, -0.9, -1.0, 2.0, 2.0]
    memory: dict[str, float] = {"num_taught": 7.0}
    assert schedule.weights(Moment(0.0, 1.0, memory)) == Weights(1, 4)
    released = False
    for step, lag in enumerate(lags):
        metrics = {"hard_loss": 5 + lag}
        if not released:  # afterwards the teacher does not run
            metrics["teacher_loss"] = 5.0
        memory = dict(schedule.remember(memory, metrics))
        weighted = [(3 / 4) ** (step - k) for k in range(step + 1)]
        mean = sum(w * x for w, x in zip(weighted, lags, strict=False)) / sum(weighted)
        released = released or mean <= 0
        moment = Moment(step / 10, 1.0, memory)
        assert schedule.soft_is_over(moment) == released
        expected = 0 if released else 4 * min(1, mean / 2)
        assert schedule.weights(moment).soft == pytest.approx(expected)
    assert released
    assert memory["num_taught"] == 7  # what others note stays


def test_crossover_is_full_until_its_step_and_fades_from_there() -> None:
    """Against a weight for each step of a run, written out."""
    schedule = Crossover(soft=3, until=4, max_steps=10, fade=0.3)
    assert softs(schedule) == pytest.approx([3, 3, 3, 3, 3, 2, 1, 0, 0, 0])
    unknown = Crossover(soft=3, max_steps=10, fade=0.3)
    assert softs(unknown) == [3] * 10
    assert softs(unknown.placed(10, 4)) == softs(schedule)
    assert softs(unknown.placed(10, 10)) == [3] * 10, "the student never gets there"
    assert softs(unknown.placed(10, 0)) == [0] * 10, "it is ahead from the start"
    epochs = Crossover(soft=3, until=4, max_steps=None, fade=0.3)  # the text says how long they are
    assert softs(epochs.placed(10, None)) == softs(schedule)
    assert unknown.crossing is unknown
    assert schedule.crossing is Crossover(soft=0).crossing is Step().crossing is None


def test_a_crossover_beyond_the_run() -> None:
    assert not list(Crossover(until=10, max_steps=10).problems("alpha"))
    (problem,) = Crossover(until=11, max_steps=10).problems("alpha")
    assert problem.startswith("alpha.until=11: the run has train.max_steps=10; choose")


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_weight_has_a_range_and_may_be_zero(name: str) -> None:
    weights = [f for f in fields(SCHEDULES[name]) if f.name.startswith(("hard", "soft"))]
    assert weights
    for weight in weights:
        bounds: Range = weight.metadata["range"]
        assert bounds.problem(weight.name, 0.0) is None
        assert bounds.problem(weight.name, -0.5) == f"{weight.name}=-0.5: it is at least 0"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Linear, "until", 0.0),
        (Step, "until", 1.5),
        (Overtake, "full", 0.0),
        (Overtake, "span", 1.0),
        (Crossover, "fade", 0.0),
        (Crossover, "calibration", 1.5),
    ],
)
def test_values_that_no_schedule_can_have(kind: type[Schedule], name: str, value: float) -> None:
    (bounds,) = (f.metadata["range"] for f in fields(kind) if f.name == name)
    assert bounds.problem(name, value).startswith(f"{name}={value}: it is above")


def test_an_exponential_never_comes_from_or_to_zero() -> None:
    assert not list(Exponential().problems("alpha"))
    (problem,) = Exponential(soft_end=0.0).problems("alpha")
    assert problem.startswith("alpha.soft=4.0 and alpha.soft_end=0.0")
