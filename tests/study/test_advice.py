"""What a made-up ladder advises, and how it is scored; the ladder is `tests.study.miniature`'s."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dwt_cli.base.errors import UserError
from dwt_cli.study import advice, forecast
from dwt_cli.study.advice import Advice, Budget, Cost, advise, answer, remarks
from dwt_cli.study.advice_page import print_advice, write_page
from dwt_cli.study.results import read_results
from dwt_cli.study.scored import keep_forecast, scores
from tests.study import miniature

LENGTHS = (100, 200, 400)
ARMS = {"alone": "teacher=none", "taught": "teacher=small"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_NUM_DRAWS", 4)
    monkeypatch.setattr(
        miniature, "loss_alone", lambda n, seed: 2 + 4 * (n / 100) ** -0.5 + 0.05 * seed
    )
    monkeypatch.setitem(miniature.TEACHER, "taught", 0.3)
    monkeypatch.setattr(miniature, "CLAIMS", [])


def advised(
    root: Path, monkeypatch: pytest.MonkeyPatch, effect: float, seeds: Any = (0, 1), far: float = 8
) -> tuple[Path, Any, Advice]:
    """The advice of a teacher that changes the losses by so much, for 8 times the longest run."""
    monkeypatch.setitem(miniature.EFFECT, "taught", effect)
    folder = miniature.write(root, seeds, LENGTHS, ARMS)
    results = read_results(folder)
    budget = Budget("8h", True, far * 400 * miniature.STEP, far * 400 * miniature.STEP / 28800)
    return folder, results, advise(results, LENGTHS, budget)


def test_a_teacher_that_helps_is_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, found = advised(tmp_path, monkeypatch, -0.4)
    alone, taught = found.forecasts
    assert found.best is taught and taught.apart.high < 0
    assert alone.steps == 3200 and taught.steps == 3200 * 4 // 5  # its passes are a quarter more
    assert taught.apart.value == pytest.approx(taught.loss.value - alone.loss.value)
    assert taught.as_far > alone.steps
    assert "with 8h: listen to the teacher" in answer(found)
    said = "\n".join(remarks(found))
    assert "not to be trusted" not in said
    far = replace(taught, horizon=None)  # looked for beyond the ladder
    said += "\n".join(remarks(replace(found, forecasts=[alone, far])))
    assert "taught is forecast below the student alone from 400 steps on" in said
    assert "the teacher's own held-out loss is" in said and "ahead of anything" not in said
    spent = sum(LENGTHS) * 2 * (2 * miniature.STEP + miniature.FORWARD)
    assert found.flops == pytest.approx(spent) and f"{found.cost:.1%} of the budget" in said


@pytest.mark.parametrize("power", [1.0, 0.3, 0.0])
def test_a_teacher_that_is_let_go_of_takes_less_of_a_long_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, power: float
) -> None:
    _, results, found = advised(tmp_path, monkeypatch, -0.4)
    runs, taught = results.runs, results.runs.arm == "taught"
    heard = 50 * miniature.STEP * (runs.steps / 400) ** power
    runs.loc[taught, "flops_forward"] = (runs.flops_student + heard)[taught]
    far = advise(results, LENGTHS, found.budget)
    cost, steps = far.forecasts[1].cost, far.forecasts[1].steps
    assert cost.heard(4 * 400) == pytest.approx(cost.heard(400) * 4**power)
    whole = miniature.STEP * (steps + 50 * (steps / 400) ** power)
    assert whole == pytest.approx(far.budget.flops, rel=1e-3) and whole <= far.budget.flops
    half = far.budget.flops / 2
    assert (
        cost.flops(cost.steps(half)) == pytest.approx(half) and Cost(1, lambda _: 9.0).steps(8) == 0
    )


def test_an_arm_that_is_likely_below_is_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, found = advised(tmp_path, monkeypatch, -0.4)
    alone, taught = found.forecasts
    for value, high, arm in ((-0.3, 0.42, "taught"), (-0.3, 0.44, "alone"), (0.1, 0.2, "alone")):
        unsure = replace(taught, apart=forecast.Interval(value, -1.0, high))
        of = replace(found, forecasts=[alone, unsure])  # 0.674 deviations of 1.645: a quarter
        assert of.best.arm == arm
        assert ("chance one time in four" in answer(of)) == (arm != "alone")


@pytest.mark.parametrize(
    ("effect", "seeds", "why"),
    [(0.0, (0, 1), "No arm"), (0.3, (0, 1), "No arm"), (-0.4, (0,), "One seed")],
)
def test_otherwise_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effect: float, seeds: Any, why: str
) -> None:
    _, _, found = advised(tmp_path, monkeypatch, effect, seeds)
    assert found.best.arm == "alone"
    assert answer(found).startswith("with 8h: do not distil: train alone.")
    assert why in answer(found)


def test_what_bears_on_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(miniature.TEACHER, "taught", -4.0)
    _, _, found = advised(tmp_path, monkeypatch, -0.2, far=100)
    said = "\n".join(remarks(found))
    assert "not to be trusted: 40,000 steps are 100 times the ladder's longest run of 400" in said
    assert answer(found).startswith("beyond what this ladder can say (100 times its longest run), ")
    assert "ahead of anything that this budget reaches" in said
    assert "the text is read 267 times; the ladder read it 2.7 times" in said


def test_a_ladder_with_a_hole_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, whole = advised(tmp_path, monkeypatch, -0.2)
    (folder.parent.parent / miniature.identity("taught", 200, 1) / "summary.json").unlink()
    found = advise(read_results(folder), LENGTHS, whole.budget)
    assert found.seeds == [0]
    (folder.parent.parent / miniature.identity("alone", 100, 0) / "summary.json").unlink()
    with pytest.raises(UserError, match=r"no seed has all runs of the ladder; alone, 100 steps"):
        advise(read_results(folder), LENGTHS, whole.budget)


def test_a_page_is_written_and_a_forecast_kept_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, results, found = advised(tmp_path, monkeypatch, -0.4)
    folder = folder.rename(folder.with_name("advice-abc"))
    commands = {arm: f"dwt-train {words}" for arm, words in ARMS.items()}
    paths = write_page(folder, results, found, commands)
    page = (folder / "advice.md").read_text()
    assert "\n\n## What was measured" in page and "\n\nEach arm is" in page
    assert answer(found) in page and "dwt-train teacher=small" in page
    print_advice(Console(width=200), found, commands["taught"], paths[:1])
    assert f"html: {folder / 'advice.html'}" in capsys.readouterr().out
    ids = {arm: (commands[arm], f"{arm}-whole".ljust(16, "0")) for arm in ARMS}
    (folder / "forecasts.jsonl").write_text('{"version": 0, "budget": "9h"}\n')
    kept = keep_forecast(folder, found, ids, "c0ffee")
    assert '"9h"' in (folder / "forecasts.jsonl").read_text()
    assert keep_forecast(folder, found, ids, "later") == kept
    assert kept["commit"] == "c0ffee" and kept["arms"]["taught"]["command"] == commands["taught"]
    for row in scores(tmp_path / "runs"):
        assert row["came"] == "not trained"
    nothing = miniature.summary("alone", 3200, 0) | {"identity": ids["alone"][1]}
    miniature.write_run(tmp_path / "runs" / f"it-{ids['alone'][1]}", nothing)
    path = tmp_path / "runs" / f"it-{ids['alone'][1]}" / "summary.json"
    nothing["student"]["heldout"] = {}
    path.write_text(json.dumps(nothing))
    assert scores(tmp_path / "runs")[0]["came"] == "not trained"
    for arm, above in (("alone", 0.0), ("taught", 9.0)):
        said = miniature.summary(arm, 3200, 0)
        said["identity"] = ids[arm][1]
        value = found.forecasts[list(ARMS).index(arm)].loss.value
        said["student"]["heldout"]["loss"] = value + above
        miniature.write_run(tmp_path / "runs" / f"so-{ids[arm][1]}", said)
    alone, taught, apart = scores(tmp_path / "runs")
    assert (alone["of"], alone["inside"]) == ("loss", "yes")
    assert (taught["arm"], taught["of"], taught["inside"]) == ("taught *", "loss", "no")
    assert (apart["of"], apart["inside"]) == ("minus alone", "no")
    keep_forecast(folder, found, {arm: (f"{c} seed=1", i) for arm, (c, i) in ids.items()}, None)
    assert scores(tmp_path / "runs")[3]["inside"] == "known before"


def test_a_budget_is_shown_in_its_unit() -> None:
    time = Budget("8h", True, 1e12, 1e9)
    assert [time.shown(flops) for flops in (3e10, 3e11, 3e13)] == ["30 s", "5 min", "8.33 h"]
    assert Budget("1e+12 FLOPs", False, 1e12, 1e9).shown(3e11) == "3e+11 FLOPs"
    assert advice.ranged(forecast.Interval(1.0, math.nan, math.nan)) == "1.000"
