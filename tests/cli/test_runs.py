"""``dwt-runs``, on folders made by the code that makes them in a run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dwt_cli.base.identity import plain
from dwt_cli.base.ranks import ALONE
from dwt_cli.cli import runs
from dwt_cli.config.compose import runs_of
from dwt_cli.config.run import LONGEST_NAME, Run
from dwt_cli.recipe.record import Record, readable
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.track.summary import Facts, Summary

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # the workers of pytest have it


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


@pytest.mark.parametrize("columns", [100, 40])
def test_a_run_is_one_line_with_its_numbers(
    tmp_path: Path,
    composed: Callable[..., Run],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    with record(composed, tmp_path, 1, "optim.lr=0.000123") as run:
        run.start({})
        log = MetricsLog(run.folder / "metrics.jsonl", every=1)
        log.resumed(0)
        log.stepped(12345, 0.5, {"loss": 9.0})
        log.evaluated(12345, {"loss": 4.25})
        run.status("interrupted")
    monkeypatch.setenv("COLUMNS", str(columns))
    assert runs.main(["--root", str(tmp_path)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert max(len(heading), len(line)) <= columns
    assert "12345 of 24690" in line and "4.250" in line and line.endswith("001")
    if columns == 100:
        assert line.endswith(run.folder.name)


def test_names_are_short_and_say_what_differs() -> None:
    def name(*words: str) -> str:
        (run,), _ = runs_of(words)
        return readable(run.choices, run.overrides, run.seed)

    assert name() == "small-seed0"
    assert name("objective=mse", "seed=3") == "small-mse-seed3"
    path = "teacher.path=/home/me/runs/none-seed0-0123456789abcdef/model"
    assert name("teacher=checkpoint", path) == "run_0123456-seed0"
    assert name("train.max_steps=7", "task.mask_ratio=0.3") == (
        "small-mask_ratio_0.3-max_steps_7-seed0"
    )
    long = [f"scale.{key}=4" for key in ("width", "num_heads", "mlp_width", "num_layers")]
    names = {name(*long, f"optim.lr={lr}", "optim.warmup=0.1") for lr in (0.001, 0.002)}
    assert len(names) == 2 and max(map(len, names)) <= LONGEST_NAME


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
