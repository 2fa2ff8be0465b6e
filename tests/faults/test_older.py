"""What earlier commits have made is opened, gone on with, or made again with a reason."""

import json
import tarfile
from pathlib import Path

import pytest

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.cli.runs import listed_runs
from dwt_cli.distill.teacher.options import CheckpointTeacher
from dwt_cli.models.checkpoint import open_model
from dwt_cli.models.options import Head
from dwt_cli.study.record import read_study
from dwt_cli.study.results import read_results
from dwt_cli.track.metrics import read_lines
from tests.faults.older import ARCHIVES, MADE, words_of
from tests.miniature import write_text
from tests.processes import dwt_train


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A folder with what all the commits have made, and the text."""
    for commit in MADE:
        with tarfile.open(ARCHIVES / f"{commit}.tar.xz") as packed:
            packed.extractall(tmp_path, filter="data")
    write_text(tmp_path / "text")
    return tmp_path


def again(name: str, place: Path, *more: str) -> str:
    """What one of the commands prints today."""
    done = dwt_train(*words_of(name), *more, cwd=place)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_folders_are_read_without_training(unpacked: Path) -> None:
    places = [*unpacked.glob("cache/*/*"), *unpacked.glob("runs/*/checkpoints/step-*")]
    assert len(places) > 6
    for place in places:
        atomic.verify(place)
    states = {run.folder.name.split("-")[-2]: run.state for run in listed_runs(unpacked / "runs")}
    assert states["seed0"] == "finished" and states["seed1"] == "dead"
    (run,) = (unpacked / "runs").glob("small-*-seed0-*")
    _, lacking = open_model("teacher.path", CheckpointTeacher(path=str(run)), Head.masked)
    assert lacking == []
    (study,) = (unpacked / "runs" / "studies").iterdir()
    assert len(read_study(study).jobs) == 4
    assert len(read_results(study).runs) == 4


def test_what_a_newer_version_writes_is_refused_in_one_line(unpacked: Path) -> None:
    (study,) = (unpacked / "runs" / "studies").iterdir()
    content = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(content | {"version": 2}))
    with pytest.raises(UserError, match=r"cannot be used \(version: .*writes it again"):
        read_study(study)


@pytest.mark.slow
def test_a_finished_run_and_a_study_are_not_trained_again(unpacked: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in unpacked.glob("runs/*/checkpoints/*/*")}
    assert "this run is finished" in again("finished", unpacked)
    assert "4 of 4 runs are in the report" in again("study", unpacked)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_end_that_it_has_today(unpacked: Path) -> None:
    """With the old checkpoint, text and teacher it ends as one that begins today does."""
    printed = again("killed", unpacked)
    assert "student: going on after step 3" in printed
    (run,) = [p for p in (unpacked / "runs").glob("small-*-seed1-*") if "top_k" not in p.name]
    anew = unpacked / "anew"
    write_text(anew / "text")
    again("killed", anew)
    (other,) = (anew / "runs").glob("small-*-seed1-*")
    assert run.name == other.name
    last = "checkpoints/step-00000006"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (run / last / name).read_bytes() == (other / last / name).read_bytes(), name
    old, new = (read_lines(each / "metrics.jsonl") for each in (run, other))
    for name in ("train/loss", "heldout/loss"):
        before, after = ([line.get(name) for line in of if line["step"] <= 3] for of in (old, new))
        assert before == [each and pytest.approx(each, rel=1e-6) for each in after]  # elsewhere
        before, after = ([line.get(name) for line in of if line["step"] > 3] for of in (old, new))
        assert before == after and len(after) > 3


@pytest.mark.slow
def test_rows_in_a_form_of_before_are_left_and_asked_anew(unpacked: Path) -> None:
    (kept,) = unpacked.glob("cache/signal/*/")
    before = {path.name: path.read_bytes() for path in kept.glob("*.rows")}
    assert before
    printed = again("cached", unpacked)
    assert "student: going on after step 3" in printed
    assert {path.name: path.read_bytes() for path in kept.glob("*.rows")} == before
    assert len([*unpacked.glob("cache/signal/*/")]) == 2
