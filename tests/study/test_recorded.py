"""What a record's law says of arms that were never run, against the law and slow versions."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pandas as pd
import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.config.compose import runs_of
from dwt_cli.launch.recorded import listening
from dwt_cli.study import outlook
from dwt_cli.study.advice import Budget, answer, remarks, table
from dwt_cli.study.law import Choice, Teacher, readings
from dwt_cli.study.outlook import Outlook
from dwt_cli.study.recorded import Arm, ArmLaws, Ends, Listening, Recorded, by_record
from tests.study.test_law import TRUE, record

OVERTAKE, ALWAYS = Listening(Ends.overtaken, 0.5), Listening(Ends.planned, 0.5)
TEACHER = Teacher(5.1, weight=0.5)
ARM = Arm(5e5, 2048.0, 4e6, TEACHER, own=1e9, passes=2.5e8, listening=OVERTAKE)
ARMS = {
    "alone": ARM,
    "taught": replace(ARM, is_taught=True),
    "grown": replace(ARM, is_grown=True),
    "both": replace(ARM, is_taught=True, is_grown=True),
}
PROBE = pd.DataFrame(
    {
        "taught": [math.nan, 1.0],
        "text": "c0ffee",
        "text_formerly": None,
        "masks": "masks of 15%",
        "teacher_heldout_loss": 5.1,
        "layer_parameters": 5e5,
        "parameters": 1e6,
        "teacher_parameters": 2e6,
        "tokens": 2048.0 * 32,
        "steps": 32.0,
        "epochs": 2048 * 32 / 4e6,
        "flops_student": 32e9,
        "flops_teacher_forward": 8e9,
        "flops_forward": 43e9,  # a calibration, too
        "student_seconds": 3.0,
    }
)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Outlook:
    """The law of a record, with errors in lengths not seen that are made up."""
    monkeypatch.setattr(outlook, "_NUM_DRAWS", 3)
    runs = record(noise=0.004)
    runs.attrs |= {"text": "c0ffee", "masks": "masks of 15%"}
    missed = np.random.default_rng(2).normal(0.002, 0.01, len(runs))
    return Outlook(Choice(TRUE, missed, 1e-4, 1e-5), runs)


def test_an_arm_is_a_run_as_the_law_knows_it(known: Outlook) -> None:
    laws = ArmLaws(TRUE, list(ARMS.values()))
    level = TRUE.level(5e5, 5.1) / 2048
    for steps in (100.0, 900.0, 5000.0):
        heard = {"alone": 0.0, "grown": 0.0, "both": 0.0, "taught": min(steps, level / 2)}
        for place, (name, arm) in enumerate(ARMS.items()):
            assert arm.taught(TRUE, steps) == pytest.approx(heard[name], rel=0.01)
            run = {
                "parameters": 5e5,
                "tokens": 2048 * steps,
                "new_tokens": min(2048 * steps, 4e6),
                "taught": arm.taught(TRUE, steps) / steps,
                "weight": 0.5,
                "grown": float(arm.is_grown),
                "teacher": 5.1,
                "ratio": 1.0,
            }
            slow = TRUE.losses(pd.DataFrame([run]))[0]
            assert laws.loss(place, steps) == pytest.approx(slow)
            taught = 2.5e8 * heard[name]
            assert arm.cost(TRUE).flops(steps) == pytest.approx(1e9 * steps + taught, rel=0.01)
    always = replace(ARM, is_taught=True, listening=ALWAYS)
    assert always.taught(TRUE, 5000) == 5000
    fifth = Listening(Ends.planned, 0.5, lambda steps: 0.2)
    assert replace(always, listening=fifth).taught(TRUE, 5000) == 1000
    scarce = replace(ARM, is_taught=True, text=1e5)
    assert scarce.taught(TRUE, 5000) * 2048 == pytest.approx(readings(level * 1024, 1e5))
    assert scarce.taught(TRUE, 5000) > 1.1 * level / 2, "text that is read again is worth less"
    crossed = replace(always, listening=Listening(Ends.crossed, 0.8))
    assert crossed.taught(TRUE, 5000) == pytest.approx(min(5000, level))
    assert replace(crossed, is_grown=True).taught(TRUE, 5000) == crossed.taught(TRUE, 5000)
    small = replace(ARMS["both"], teacher=replace(TEACHER, ratio=0.25))
    assert small.taught(TRUE, 5000) == pytest.approx((1 - 0.25**0.4) * level / 2)
    assert laws.steps(0, laws.loss(0, 700.0)) == pytest.approx(700)
    assert laws.steps(0, 0.1) == math.inf and laws.steps(0, 99.0) == 1


def reach(recorded: Recorded, of: Any, cells: Any, farther: float) -> float:
    """Student's t of two kinds of errors, slowly. cells: what was missed, by arm and length."""
    value = of(recorded.law)
    moved = [of(ArmLaws(law, recorded.arms)) - value for law in recorded.outlook.drawn]
    missed = [float(np.mean(each)) for each in cells.values()]
    squares = [float(np.mean(np.square(each))) for each in (moved, missed)]
    return 2.3534 * math.sqrt(squares[0] + squares[1] * farther**2)  # three degrees of freedom


@pytest.mark.parametrize(("steps", "farther"), [(2000.0, 1.0), (24_000.0, 3 * math.log(10, 6))])
def test_intervals_have_errors_of_the_arms_kind_and_of_pairs(
    known: Outlook, steps: float, farther: float
) -> None:
    recorded, runs = Recorded(known, list(ARMS.values()), steps), known.runs
    nats = runs.loss - runs.loss / np.exp(known.choice.residuals)

    def of(laws: Any) -> float:
        return float(laws.loss(2, 2000.0))

    cells: dict[Any, list[float]] = {}
    for run, each in zip(runs.itertuples(), nats, strict=True):
        if run.grown and not run.taught:
            cells.setdefault((run.arm, run.steps), []).append(each)
    mean, value = recorded.interval(of, 2), of(recorded.law)
    wide = reach(recorded, of, cells, farther)
    assert (mean.low, mean.high) == pytest.approx((value - wide, value + wide), rel=1e-3)
    chance = np.mean([np.var(each, ddof=1) for each in cells.values()])
    one = recorded.of_one_run(mean, 2)
    wider = math.hypot(wide, 2.3534 * math.sqrt(chance))
    assert (one.low, one.high) == pytest.approx((value - wider, value + wider), rel=1e-3)

    def apart(laws: Any) -> float:
        return float(laws.loss(1, 2000.0) - laws.loss(0, 2000.0))

    pairs: dict[Any, list[float]] = {}
    for own in runs[(runs.taught > 0) & (runs.grown == 0)].index:
        run = runs.loc[own]
        like = (runs.parameters == run.parameters) & (runs.steps == run.steps)
        (alone,) = runs.index[like & (runs.seed == run.seed) & (runs.taught + runs.grown == 0)]
        pairs.setdefault((run.arm, run.steps), []).append(nats[own] - nats[alone])
    value, wide = apart(recorded.law), reach(recorded, apart, pairs, farther)
    found = recorded.interval(apart, 1, 0)
    assert (found.low, found.high) == pytest.approx((value - wide, value + wide), rel=1e-3)


def test_text_that_is_read_again_is_no_run_to_compare_with(known: Outlook) -> None:
    runs = known.runs
    scarce = runs[runs.arm == "500000 alone"].assign(arm="scarce", new_tokens=1e5)
    more = pd.concat([scarce, runs], ignore_index=True)
    residuals = np.concatenate([np.full(len(scarce), 0.5), known.choice.residuals])
    other = Outlook(replace(known.choice, residuals=residuals), more)
    found = [
        Recorded(each, list(ARMS.values()), 2000.0)._residuals(1, 0) for each in (known, other)
    ]
    assert found[0].nats.to_numpy() == pytest.approx(found[1].nats.to_numpy())


def test_an_advice_by_a_record(known: Outlook) -> None:
    probe: Any = SimpleNamespace(runs=PROBE)
    budget = Budget("2e12 FLOPs", False, 2e12, 1e9)
    advice = by_record(known, probe, list(ARMS), OVERTAKE, budget)
    alone, taught, grown, both = advice.forecasts
    assert alone.steps == grown.steps == both.steps == 2000, "who has grown beyond it hears nobody"
    heard = TRUE.level(5e5, 5.1) / 2048 / 2
    assert taught.steps == pytest.approx(2000 - 0.25 * heard, abs=2)
    assert advice.best.arm in ("grown", "both") and grown.loss.value < taught.loss.value
    assert taught.loss.value < alone.loss.value
    assert advice.is_recorded and advice.is_trusted
    assert advice.epochs == (pytest.approx(2000 * 2048 / 4e6), 1.0)
    assert advice.flops == 86e9 and advice.seconds == 6
    said = "\n".join([answer(advice), *remarks(advice)])
    assert "the text is read 1.02 times; the record read it 1 times" in said
    assert "grow from the teacher's weights" in said and "advise.share" not in said
    assert list(table(advice)[0]) == [
        "arm",
        "FLOPs a step",
        "steps",
        "forecast [90%]",
        "minus alone [90%]",
    ]
    always = by_record(known, probe, list(ARMS), ALWAYS, budget)
    assert always.forecasts[1].steps == 1600
    assert always.forecasts[1].horizon is not None, "listened to for ever, it stops to pay"
    far = by_record(known, probe, list(ARMS), OVERTAKE, replace(budget, flops=1e15))
    assert "beyond what this record can say" in answer(far)
    assert "; a record of longer runs would" in "\n".join(remarks(far))
    short = by_record(known, probe, list(ARMS), OVERTAKE, replace(budget, flops=1e11))
    assert "its runs begin at 400 steps, and these are 100" in answer(short)
    formerly: Any = SimpleNamespace(runs=PROBE.assign(text="today", text_formerly="c0ffee"))
    assert by_record(known, formerly, list(ARMS), OVERTAKE, budget).best.arm == advice.best.arm


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"text": "beef"}, "advise.record: its runs are on another text"),
        ({"masks": "masks of 30%"}, "advise.record: its runs are with other held-out masks"),
        ({"taught": 0.0}, "advise.record: this teacher is not listened to"),
        ({"teacher_heldout_loss": math.nan}, "advise.record: its law takes a student"),
        ({"layer_parameters": math.nan}, "advise.record: its law takes a student"),
    ],
)
def test_what_no_record_can_say(known: Outlook, changed: Any, line: str) -> None:
    probe: Any = SimpleNamespace(runs=PROBE.assign(**changed))
    with pytest.raises(UserError, match=line):
        by_record(known, probe, list(ARMS), OVERTAKE, Budget("1h", True, 1e12, 1e9))


def test_one_seed_says_nothing_of_chance(known: Outlook) -> None:
    of_one = Outlook(known.choice, known.runs.assign(seed=0))
    probe: Any = SimpleNamespace(runs=PROBE)
    of_one.runs.attrs |= known.runs.attrs
    advice = by_record(of_one, probe, list(ARMS), OVERTAKE, Budget("1h", True, 2e12, 1e9))
    assert math.isnan(advice.best.loss.low) and "name a record of more" in answer(advice)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"layer_parameters": 1e8}, "100,000 to 2,500,000 parameters in their layers, and this"),
        ({"teacher_heldout_loss": 3.5}, "its teachers' losses are 4.40 to 5.10, and this one's is"),
    ],
)
def test_what_a_record_has_nothing_like_is_not_trusted(
    known: Outlook, changed: Any, line: str
) -> None:
    probe: Any = SimpleNamespace(runs=PROBE.assign(**changed))
    budget = Budget("2e12 FLOPs", False, 2e12, 1e9)
    advice = by_record(known, probe, list(ARMS), OVERTAKE, budget)
    assert not advice.is_trusted and line in answer(advice)
    assert f"not to be trusted: {advice.ladder.beyond}" in "\n".join(remarks(advice))


def test_an_arm_that_no_run_is_like_is_not_advised(known: Outlook) -> None:
    probe: Any = SimpleNamespace(runs=PROBE)
    budget = Budget("2e12 FLOPs", False, 2e12, 1e9)
    for left, advised, unknown in (
        ("grown == 0", "taught", ["grown", "both"]),
        ("grown == 0 or steps == 800", "taught", ["grown", "both"]),
        ("taught == 0", "grown", ["taught"]),
    ):
        is_left = known.runs.eval(left)
        part = known.runs[is_left].reset_index(drop=True)
        part.attrs |= known.runs.attrs
        choice = replace(known.choice, residuals=1e-3 * known.choice.residuals[is_left])
        advice = by_record(Outlook(choice, part), probe, list(ARMS), OVERTAKE, budget)
        assert advice.best.arm == advised
        said = [
            line for line in remarks(advice) if "too few runs of the record are like it" in line
        ]
        assert [line.partition(" ")[0] for line in said] == unknown


def test_a_schedule_says_when_a_teacher_is_let_go_of() -> None:
    def heard(*words: str) -> Listening:
        (run,), _ = runs_of(["teacher=small", *words])
        return listening(run.alpha)

    assert heard("alpha=overtake").ends is Ends.overtaken
    falling = 1 - math.log(5) / 4  # the mean of 4x / (1 + 4x), x from 1 to 0
    assert heard("alpha=overtake").weight == pytest.approx(falling, abs=0.01)
    assert heard("alpha=crossover") == Listening(Ends.crossed, 0.8, ANY)
    for words, steps, share, weight in (
        (["alpha=normal"], 500, 1.0, 0.5),
        (["alpha=strong"], 500, 1.0, 0.8),
        (["alpha=decay"], 500, 1.0, 1 - math.log(2.5) / 3),  # of s / (1 + s), s from 4 to 1
        (["alpha=step"], 500, 0.2, 0.5),
        (["alpha=crossover", "alpha.until=100"], 500, 0.25, 0.75),
        (["alpha=crossover", "alpha.until=100"], 1000, 0.15, 0.75),
    ):
        found = heard(*words)
        assert found.ends is Ends.planned
        assert found.share(steps) == pytest.approx(share, abs=0.01)
        assert found.weight == pytest.approx(weight, abs=0.01)
