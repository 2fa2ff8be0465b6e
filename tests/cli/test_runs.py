"""``dwt-runs``, on folders made by the code that makes them in a run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dwt_cli.base.identity import plain
from dwt_cli.base.ranks import ALONE
from dwt_cli.cli import runs
from dwt_cli.config.run import Run
from dwt_cli.recipe.record import Record, readable
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.track.summary import Facts, Summary

Capture = pytest.CaptureFixture[str]


def record(composed: Callable[..., Run], root: Path, seed: int, *more: str) -> Record:
    run, choices = composed("teacher=weak", f"seed={seed}", *more), {"teacher": "weak"}
    name = readable(choices, run.overrides, seed)
    settings = plain(run) | {"choices": choices}
    return Record(root, name, f"{seed:016d}", settings, print, ALONE)


def test_runs_and_what_has_become_of_them(
    tmp_path: Path, composed: Callable[..., Run], capsys: Capture
) -> None:
    with record(composed, tmp_path, 1) as interrupted:
        interrupted.start({})
        log = MetricsLog(interrupted.folder / "metrics.jsonl", every=1)
        log.resumed(0)
        log.stepped(29, 0.29, {"loss": 9.0})
        log.evaluated(29, {"loss": 4.25})
        log.stepped(30, 0.3, {"loss": 8.0})
        with (interrupted.folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 31, "train')  # torn
        interrupted.status("interrupted")
    with record(composed, tmp_path, 2) as finished:
        finished.start({})
        student = Facts(parameters=1, heldout={"loss": 3.125})
        finished.finish(Summary("weak", "0" * 16, {}, 2, 1.0, 0.1, {}, student))
    with record(composed, tmp_path, 3) as dead:
        dead.start({})
    (tmp_path / "something else").mkdir()
    with record(composed, tmp_path, 4) as running:
        running.start({})
        seen = {run.folder: run for run in runs.listed_runs(tmp_path)}
        assert seen[running.folder].state == "running"
        assert runs.main(["--root", str(tmp_path)]) == 0
    assert len(seen) == 4
    assert {run.teacher for run in seen.values()} == {"weak"}
    half = seen[interrupted.folder]
    assert (half.state, half.step, half.total, half.loss) == ("interrupted", 30, 100, 4.25)
    assert (seen[finished.folder].state, seen[finished.folder].loss) == ("finished", 3.125)
    assert (seen[dead.folder].state, seen[dead.folder].step) == ("dead", None)
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    assert next(r for r in rows if "30" in r)[1:6] == ["30", "of", "100", "4.250", "weak"]
    assert interrupted.folder.name in output
    assert "dead: its process has ended" in output


def test_runs_whose_held_out_text_was_masked_otherwise_are_older(
    tmp_path: Path, composed: Callable[..., Run], capsys: Capture
) -> None:
    states = {}
    for seed, of_version_0_2 in ((1, False), (2, True)):
        for ratio in (0.15, 0.3):
            with record(composed, tmp_path, seed, f"task.mask_ratio={ratio}") as run:
                run.start({})
            config = run.folder / "config.yaml"
            if of_version_0_2:
                settings = yaml.safe_load(config.read_text())
                del settings["eval"]["mask_ratio"]
                config.write_text(yaml.safe_dump(settings))
            (listed,) = runs.listed_runs(tmp_path)
            states[seed, ratio] = listed.is_older
            assert runs.main(["--root", str(tmp_path)]) == 0
            assert ("dead, older" in capsys.readouterr().out) == listed.is_older
            shutil.rmtree(run.folder)
    assert states == {(1, 0.15): False, (1, 0.3): False, (2, 0.15): False, (2, 0.3): True}


def test_no_runs_is_a_line(tmp_path: Path, capsys: Capture) -> None:
    assert runs.main(["list", "--root", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path / 'none'}\n"
    assert not (tmp_path / "none").exists()
