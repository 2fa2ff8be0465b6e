"""Figures as text: intervals, multiples, and cells that cannot be filled."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dwt_cli.study import tables
from dwt_cli.study.comparisons import Difference
from dwt_cli.study.compute import Cost
from dwt_cli.study.results import read_results
from tests.study import miniature
from tests.study.test_results import failed, place, rewrite


def test_intervals() -> None:
    found = Difference(-0.1, 4, -0.15, -0.05, 0.01)
    assert tables.interval(found) == "-0.100 [-0.150, -0.050]"
    assert tables.interval(found, 5) == "-0.100 [-0.150, -0.050] (n=4)"
    assert tables.interval(Difference(0.1, 1)) == "+0.100 (one seed)"
    assert tables.interval(None) == "-"
    assert [tables.probability(p) for p in (0.0004, 0.0314, 1.0)] == ["< 0.001", "0.031", "1.000"]


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([], "-"),
        ([Cost(0.8, 0.8)], "80% (one seed)"),
        ([Cost(0.8, 0.8), Cost(0.9, 0.9)], "85% [21%, 149%]"),
        ([Cost(0.0, 0.6), Cost(0.0, 0.6)], "< 60%"),
        ([Cost(1.2, math.inf)], "> 120%"),
        ([Cost(0.8, 0.8), Cost(0.0, 0.6), Cost(1.2, math.inf)], "< 60% to > 120%"),
        ([Cost(0.7, 0.7), Cost(0.9, 0.9), Cost(1.2, math.inf)], "70% to > 120%"),
    ],
)
def test_multiples(costs: list[Cost], said: str) -> None:
    assert tables.multiple(costs) == tables.multiple(costs, len(costs)) == said


def test_seeds_that_are_missing_are_counted() -> None:
    assert tables.multiple([Cost(0.0, 0.6), Cost(0.0, 0.6)], 5) == "< 60% (n=2)"
    assert tables.multiple([Cost(0.8, 0.8), Cost(0.9, 0.9)], 5) == "85% [21%, 149%] (n=2)"


def test_arms_that_differ_in_how_a_teacher_was_asked_are_named(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0,), lengths=(100,))
    assert tables.signals_apart(read_results(folder)) == ""
    at = place(folder, "weak", 100, 0) / "summary.json"
    student = json.loads(at.read_text())["student"]
    rewrite(at, student=student | {"signal": {"identity": "one", "flops": 1e9}})
    results = read_results(folder)
    assert tables.signals_apart(results) == "once in weak, and in each step in poor"
    meant = replace(results.study, compares_signals=True)
    assert tables.signals_apart(replace(results, study=meant)) == ""


def test_commits_are_named_with_their_arms(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100, 200))
    assert list(tables.commits(read_results(folder))) == []
    for arm, seed in (("weak", 0), ("poor", 1)):
        at = place(folder, arm, 200, seed) / "environment.json"
        rewrite(at, commit="abc-dirty")
    assert list(tables.commits(read_results(folder))) == [
        {
            "commit": "unknown",
            "runs": 10,
            "arms (lengths)": "alone (100, 200), weak (100, 200), poor (100, 200)",
        },
        {"commit": "abc, and changes to it", "runs": 2, "arms (lengths)": "weak (200), poor (200)"},
    ]


def test_the_stand_alone_passes_its_teachers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its curve is 9 at the start, and from a fifth of the run on falls by 0.02 nats a step."""
    ahead = {"same": 0.8, "weak": 0.8, "poor": 3.2, "near": 0.1, "never": -0.01}
    monkeypatch.setattr(miniature, "TEACHER", ahead)
    arms = dict.fromkeys(["alone", *ahead], "")
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100,), arms=arms, claims=[])
    found = tables.leads(read_results(folder)).values()
    assert [[tuple(row.values()) for row in rows] for rows in found] == [
        [(100, "-0.800 [-0.800, -0.800]", "60%", "60%, 60%", "same, weak")],
        [(100, "-3.200 [-3.200, -3.200]", "0%", "0%, 0%", "poor")],
        [
            (100, "-0.100 [-0.100, -0.100]", "95%", "95%, 95%", "near"),
            (100, "+0.010 [+0.010, +0.010]", "-", "never, never", "never"),
        ],
    ]


def test_one_line_per_run(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100,))
    failed(folder, place(folder, "weak", 100, 1))
    results = read_results(folder)
    rows = list(csv.DictReader(io.StringIO(tables.runs_table(results).to_csv())))
    assert len(rows) == 6
    whole = next(row for row in rows if (row["arm"], row["seed"]) == ("weak", "0"))
    assert float(whole["heldout_loss"]) == results.of("weak", 100).heldout_loss[0]
    assert float(whole["flops_whole"]) == 175e9
    assert (whole["left_out"], whole["words"]) == ("", "teacher=small seed=0")
    out = next(row for row in rows if (row["arm"], row["seed"]) == ("weak", "1"))
    assert (out["heldout_loss"], out["left_out"]) == ("", "failed: out of memory: lower it")
    assert [list(row.values()) for row in tables.left_out(results)] == [
        ["weak", "run", "failed: out of memory: lower it", "100: 1"]
    ]
