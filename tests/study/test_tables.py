"""Figures as text: intervals, multiples, and cells that cannot be filled."""

import csv
import io
import math
from pathlib import Path

import pytest

from dwt_cli.study import tables
from dwt_cli.study.comparisons import Difference
from dwt_cli.study.compute import Cost
from dwt_cli.study.results import read_results
from tests.study import miniature
from tests.study.test_results import failed, place


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
        ([Cost(0.8, 0.8)], "0.80 (one seed)"),
        ([Cost(0.8, 0.8), Cost(0.9, 0.9)], "0.85 [0.21, 1.49]"),
        ([Cost(0.0, 0.6), Cost(0.0, 0.6)], "< 0.60"),
        ([Cost(1.2, math.inf)], "> 1.20"),
        ([Cost(0.8, 0.8), Cost(0.0, 0.6), Cost(1.2, math.inf)], "< 0.60 to > 1.20"),
        ([Cost(0.7, 0.7), Cost(0.9, 0.9), Cost(1.2, math.inf)], "0.70 to > 1.20"),
    ],
)
def test_multiples(costs: list[Cost], said: str) -> None:
    assert tables.multiple(costs) == tables.multiple(costs, len(costs)) == said


def test_seeds_that_are_missing_are_counted() -> None:
    assert tables.multiple([Cost(0.0, 0.6), Cost(0.0, 0.6)], 5) == "< 0.60 (n=2)"
    assert tables.multiple([Cost(0.8, 0.8), Cost(0.9, 0.9)], 5) == "0.85 [0.21, 1.49] (n=2)"


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
