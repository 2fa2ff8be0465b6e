"""What a record's law says of arms that were never run, against the law and slow versions."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.study import outlook
from dwt_cli.study.advice import Budget, answer, remarks, table
from dwt_cli.study.forms import LISTENING
from dwt_cli.study.law import Choice
from dwt_cli.study.outlook import Outlook
from dwt_cli.study.recorded import Arm, ArmLaws, Recorded, by_record
from tests.study.test_law import TRUE, record

ARM = Arm(5e5, 2048.0, 4e6, 5.1, own=1e9, passes=2.5e8, lets_go=True)
ARMS = {
    "alone": ARM,
    "taught": replace(ARM, is_taught=True),
    "grown": replace(ARM, is_grown=True),
    "both": replace(ARM, is_taught=True, is_grown=True),
}
PROBE = pd.DataFrame(
    {
        "taught": [math.nan, 1.0],
        "text": ["c0ffee"] * 2,
        "teacher_heldout_loss": 5.1,
        "layer_parameters": 5e5,
        "tokens": 2048.0 * 32,
        "steps": 32.0,
        "epochs": 2048 * 32 / 4e6,
        "flops_student": 32e9,
        "flops_forward": 40e9,
        "student_seconds": 3.0,
    }
)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Outlook:
    """The law of a record, with errors in lengths not seen that are made up."""
    monkeypatch.setattr(outlook, "_NUM_DRAWS", 3)
    runs = record(noise=0.004)
    runs.attrs["text"] = "c0ffee"
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
                "grown": float(arm.is_grown),
                "teacher": 5.1,
            }
            slow = TRUE.losses(pd.DataFrame([run]))[0]
            assert laws.loss(place, steps) == pytest.approx(slow)
            taught = 2.5e8 * heard[name]
            assert arm.cost(TRUE).flops(steps) == pytest.approx(1e9 * steps + taught, rel=0.01)
    assert replace(ARM, is_taught=True, lets_go=False).taught(TRUE, 5000) == 5000
    place = laws.steps(0, laws.loss(0, 700.0))
    assert place == pytest.approx(700, rel=0.06)
    assert laws.steps(0, 0.1) == math.inf


def test_intervals_have_errors_of_the_arms_kind_and_of_pairs(known: Outlook) -> None:
    recorded, runs = Recorded(known, list(ARMS.values())), known.runs
    nats = runs.loss - runs.loss / np.exp(known.choice.missed)

    def of(laws: Any) -> float:
        return float(laws.loss(2, 2000.0))

    for one in (False, True):
        cells: dict[Any, list[float]] = {}
        for run, each in zip(runs.itertuples(), nats, strict=True):
            if run.grown and not run.taught:
                cell = (run.arm, run.length, run.seed if one else 0)
                cells.setdefault(cell, []).append(each)
        errors = [float(np.mean(each)) for each in cells.values()]
        value = of(recorded.law)
        moved = [of(ArmLaws(law, recorded.arms)) - value for law in known.drawn]
        every = [error + move for error in errors for move in ([0.0] if one else moved)]
        low, high = np.quantile(every, [0.05, 0.95])
        mean = recorded.interval(of, 2)
        if one:
            found = recorded.of_one_run(mean, 2)
            low, high = min(low, mean.low - value), max(high, mean.high - value)
        else:
            found = mean
        assert (found.low, found.high) == pytest.approx((value + low, value + high))

    def apart(laws: Any) -> float:
        return float(laws.loss(1, 2000.0) - laws.loss(0, 2000.0))

    pairs: dict[Any, list[float]] = {}
    for own in runs[(runs.taught > 0) & (runs.grown == 0)].index:
        run = runs.loc[own]
        like = (runs.parameters == run.parameters) & (runs.length == run.length)
        (alone,) = runs.index[like & (runs.seed == run.seed) & (runs.taught + runs.grown == 0)]
        pairs.setdefault((run.arm, run.length), []).append(nats[own] - nats[alone])
    value = apart(recorded.law)
    moved = [apart(ArmLaws(law, recorded.arms)) - value for law in known.drawn]
    every = [np.mean(each) + move for each in pairs.values() for move in moved]
    found = recorded.interval(apart, 1, 0)
    ends = np.quantile(every, [0.05, 0.95])
    assert (found.low, found.high) == pytest.approx(tuple(value + ends))


def test_an_advice_by_a_record(known: Outlook) -> None:
    probe: Any = SimpleNamespace(runs=PROBE)
    budget = Budget("2e12 FLOPs", False, 2e12, 1e9)
    advice = by_record(known, probe, list(ARMS), True, budget)
    alone, taught, grown, both = advice.forecasts
    assert alone.steps == grown.steps == both.steps == 2000, "who has grown beyond it hears nobody"
    heard = TRUE.level(5e5, 5.1) / 2048 / 2
    assert taught.steps == pytest.approx(2000 - 0.25 * heard, abs=2)
    assert advice.best.arm in ("grown", "both") and grown.loss.value < taught.loss.value
    assert taught.loss.value < alone.loss.value
    assert advice.is_recorded and advice.is_trusted
    assert advice.epochs == (pytest.approx(2000 * 2048 / 4e6), 1.0)
    assert advice.flops == 80e9 and advice.seconds == 6
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
    always = by_record(known, probe, list(ARMS), False, budget)
    assert always.forecasts[1].steps == 1600
    assert always.forecasts[1].horizon is not None, "listened to for ever, it stops to pay"
    far = by_record(known, probe, list(ARMS), True, replace(budget, flops=1e15))
    assert "beyond what this record can say" in answer(far)
    assert "; a record of longer runs would" in "\n".join(remarks(far))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"text": "beef"}, "advise.record: its runs are on another text"),
        ({"teacher_heldout_loss": math.nan}, "advise.record: its law takes a student"),
        ({"layer_parameters": math.nan}, "advise.record: its law takes a student"),
    ],
)
def test_what_no_record_can_say(known: Outlook, changed: Any, line: str) -> None:
    probe: Any = SimpleNamespace(runs=PROBE.assign(**changed))
    with pytest.raises(UserError, match=line):
        by_record(known, probe, list(ARMS), True, Budget("1h", True, 1e12, 1e9))


def test_one_seed_says_nothing_of_chance(known: Outlook) -> None:
    of_one = Outlook(known.choice, known.runs.assign(seed=0))
    probe: Any = SimpleNamespace(runs=PROBE)
    of_one.runs.attrs["text"] = "c0ffee"
    advice = by_record(of_one, probe, list(ARMS), True, Budget("1h", True, 2e12, 1e9))
    assert math.isnan(advice.best.loss.low) and "name a record of more" in answer(advice)


def test_listening_that_never_pays_is_not_listened_to() -> None:
    law = replace(TRUE, listening=LISTENING[3], numbers={**TRUE.numbers, "k": 0.8, "j": 0.3})
    assert replace(ARM, is_taught=True).taught(law, 500) == 0
