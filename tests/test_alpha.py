import pytest

from dwt_cli.alpha import SCHEDULES, Constant, Linear, Moment, Schedule, Weights

MOMENTS = [Moment(step / 10) for step in range(10)]


def test_constant_is_the_papers_normal_and_strong() -> None:
    assert {Constant(hard=1, soft=4).weights(moment) for moment in MOMENTS} == {Weights(1, 4)}


def test_linear_goes_straight_from_soft_to_soft_end() -> None:
    weights = [Linear(hard=2, soft=4, soft_end=1).weights(moment) for moment in MOMENTS]
    assert [w.hard for w in weights] == [2] * 10
    assert [w.soft for w in weights] == pytest.approx(
        [4.0, 3.7, 3.4, 3.1, 2.8, 2.5, 2.2, 1.9, 1.6, 1.3]
    )


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(soft=0),
        Constant(soft=0.1),
        Linear(soft=0, soft_end=0),
        Linear(soft=0, soft_end=1),
        Linear(soft=1, soft_end=0),
    ],
)
def test_soft_is_over_means_zero_from_here_on(schedule: Schedule) -> None:
    for number, moment in enumerate(MOMENTS):
        rest = [schedule.weights(later).soft for later in MOMENTS[number:]]
        assert schedule.soft_is_over(moment) == (not any(rest))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_negative_weight_is_a_problem_and_names_its_setting(name: str) -> None:
    make = SCHEDULES[name]
    assert make().problems() == []
    assert make(hard=0).problems() == []
    (problem,) = make(hard=-0.5).problems()
    assert problem.startswith("alpha.hard=-0.5:")
