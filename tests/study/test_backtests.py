"""The record of back-tests, without the runs that are to be forecast."""

import importlib
from pathlib import Path

import pytest

from dwt_cli.study.kept import keep
from dwt_cli.study.record import read_study
from dwt_cli.study.results import read_results
from tests.study import miniature

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_record_without_its_long_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    backtests = importlib.import_module("backtests")
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100, 200, 400))
    keep(folder, read_study(folder))
    root = folder.parent.parent
    shorter = backtests.shorter(folder, root / "records" / "0-miniature", 300)
    assert set(read_results(folder).runs.length) == {100, 200, 400}
    assert set(read_results(shorter).runs.length) == {100, 200}
    with pytest.raises(SystemExit, match="name the folder of a study"):
        backtests.shorter(root, root / "records" / "1-none", 300)
