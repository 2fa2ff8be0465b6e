"""What a forecast may cost, and budgets that are none."""

import re

import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.cli.command import carry_out
from dwt_cli.config.advise import FEWEST_STEPS, Advise, in_words, share_of


def test_a_share_falls_from_an_hour_to_eight_by_a_power() -> None:
    assert share_of(60) == share_of(3600) == 0.25
    assert share_of(8 * 3600) == share_of(1e6) == pytest.approx(0.05)
    assert share_of(8**0.5 * 3600) == pytest.approx(0.0125**0.5)
    paid = [s * share_of(s) for s in range(1800, 40_000, 600)]
    assert paid == sorted(paid)


@pytest.mark.parametrize(
    ("budget", "seconds"), [("30m", 1800), ("8h", 28800), ("1.5d", 129600), ("90s", 90)]
)
def test_a_time_becomes_flops_by_a_speed(budget: str, seconds: float) -> None:
    asked = Advise(budget)
    assert asked.is_time and asked.flops(10.0) == seconds * 10 and not list(asked.problems("a"))
    assert Advise("1e17").flops(10.0) == 1e17 and not Advise("1e17").is_time


@pytest.mark.parametrize(
    "budget", [None, "soon", "8", "8 h", "-8h", "0h", "nan", "1e99", "h", "", "8H", "1D"]
)
def test_what_is_no_budget_is_refused(budget: str | None) -> None:
    (line,) = Advise(budget).problems("advise")
    assert "advise.budget" in line and "write a time, as 30m, 8h or 2d" in line


@pytest.mark.parametrize("unit", ["m", "FLOPs"])
@pytest.mark.parametrize("speed", [1e9, 1e12])
def test_the_least_budget_that_is_named_would_do(unit: str, speed: float) -> None:
    a_step, budget = 4 * speed / 10, "5m" if unit == "m" else f"{300 * speed:g}"
    with pytest.raises(UserError, match=rf"advise.budget={re.escape(budget)}: too small") as said:
        Advise(budget).shortest(a_step, speed)
    found = re.search(r"set advise.budget=(\S+) or more", str(said.value))
    assert found
    least = Advise(found[1] if unit == "m" else f"{float(found[1]) * 1.03:g}")
    assert FEWEST_STEPS <= least.shortest(a_step, speed) < 1.2 * FEWEST_STEPS
    assert Advise(budget, share=1.0).shortest(a_step / 9, speed) >= FEWEST_STEPS


def test_a_ladder_costs_no_more_than_its_share() -> None:
    for budget in ("1h", "3h", "8h", "4d"):
        asked = Advise(budget, seeds=3)
        steps = asked.shortest(4e6, 1e9)
        spent, whole = steps * 7 * 3 * 4e6, asked.flops(1e9)
        assert spent <= share_of(asked.amount) * whole < spent + 7 * 3 * 4e6


def test_times_are_rounded_up() -> None:
    assert [in_words(each) for each in (61, 121, 7201)] == ["61s", "3m", "3h"]


@pytest.mark.parametrize("words", [["--config-name", "ernie_tiny"], ["--score", "-m", "seed=1"]])
def test_what_is_another_commands_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert carry_out("dwt-advise", words) == 2
    assert "an advice has its own" in (said := capsys.readouterr().err) or "--score is" in said
