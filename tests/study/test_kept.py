"""runs.jsonl: the whole report without the runs' folders, and no line that is lost."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dwt_cli.study import figures
from dwt_cli.study.kept import keep, read_kept, said_by
from dwt_cli.study.record import FILE, RUNS, read_study
from dwt_cli.study.report import write_report
from dwt_cli.study.results import read_results
from tests.study import miniature
from tests.study.test_results import place, rewrite


def test_a_report_is_made_of_runs_jsonl_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw", lambda results, folder: {})
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    folder = miniature.write(tmp_path / "here", seeds=(0, 1, 2))
    (place(folder, "poor", 100, 1) / "metrics.jsonl").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_report(folder)
    shutil.copy(folder / RUNS, elsewhere)
    for path in write_report(elsewhere):
        assert path.read_text() == (folder / path.name).read_text()
    ours, theirs = (read_results(each).jobs for each in (folder, elsewhere))
    assert ours.equals(theirs), "curves and schedules, too"


def test_a_line_is_small(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0,), lengths=(3000,))
    keep(folder, read_study(folder))
    study, *runs = (folder / RUNS).read_text().splitlines()
    assert json.loads(study) == json.loads((folder / FILE).read_text())
    assert len(runs) == 3 and max(map(len, runs)) < 4000
    assert len(read_kept(folder)[miniature.identity("weak", 3000, 0)]["weights"]) == 101


def test_files_of_a_text_are_told_by_its_fingerprint(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0,), lengths=(100,))
    run = next((tmp_path / "runs").glob("*/summary.json"))
    said = json.loads(run.read_text())
    said["corpus"]["provenance"] = {"source": "files", "files": [["a.txt", 3, "c0ffee"]]}
    run.write_text(json.dumps(said))
    keep(folder, read_study(folder))
    text = read_kept(folder)[said["identity"]]["summary"]["corpus"]
    assert text["provenance"] == {"source": "files"}
    assert text["fingerprint"] == said["corpus"]["fingerprint"]


def test_what_a_training_measured_is_kept_where_its_curve_is(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("{}")
    lines = [
        {"step": step, "train/lr": 0.1, "train/policy_1": None if step == 5 else step / 3}
        | ({"heldout/loss": 1.0} if step in (0, 3, 5) else {})
        for step in range(6)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    said = said_by(tmp_path)
    assert said is not None and said["train"] == {"policy_1": [(0, 0.0), (1, 0.3333), (3, 1.0)]}


def test_no_line_is_lost_where_several_write_at_once(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path)
    study = read_study(folder)
    each = [replace(study, jobs=(job,)) for job in study.jobs]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: keep(folder, one), each))
    assert read_kept(folder).keys() == {job.identity for job in study.jobs}


def test_a_run_that_is_trained_anew_has_a_new_line(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0,), lengths=(100,))
    study, run = read_study(folder), place(folder, "weak", 100, 0)
    keep(folder, study)
    (folder / RUNS).write_text((folder / RUNS).read_text() + '{"summary": {"iden')  # torn
    rewrite(run / "summary.json", seconds=77.0)
    for anew, seconds in ((None, 12.0), (run.name, 77.0)):
        keep(folder, study, anew)
        kept = read_kept(folder)
        assert len(kept) == 3 and kept[run.name]["summary"]["seconds"] == seconds
    shutil.rmtree(run)
    assert read_results(folder).left_out.empty, "the folder is gone, and the line is there"
