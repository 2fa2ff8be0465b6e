"""Studies and plain multiruns through the real command: what is missing is done, and only that."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from dwt_cli.base import locks
from dwt_cli.config import files
from dwt_cli.config.launch import Basic, Joblib, Jobs
from dwt_cli.config.run import Run
from dwt_cli.launch import sweep
from dwt_cli.launch.pool import News, carry_out
from dwt_cli.launch.start import fresh
from dwt_cli.recipe.record import LOCK
from tests.miniature import dwt_train, options, write_text
from tests.processes import Started

STUDY = """
defaults: [study, _self_]
study:
  question: Does it work?
  arms:
    alone: teacher=none
    weak: teacher=small teacher.seed=${seed} alpha=normal
    again: teacher=none
    long: teacher=none scale.max_steps=400
    torn: teacher=none data.path=PLACE/short
  claims: [{claim: it helps, arm: weak, against: alone, expect: lower}]
data: {heldout_fraction: 0.2, path: PLACE/text}
hydra: {sweeper: {params: {arm: "alone,torn,weak,again", length: 4, seed: 0}}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multirun")
    write_text(folder / "text")
    (folder / "studies").mkdir()
    (folder / "studies" / "mine.yaml").write_text(STUDY.replace("PLACE", str(folder)))
    (folder / "short").mkdir()
    (folder / "short" / "one.txt").write_text("Not much of a text.\n")
    return folder


def study_command(place: Path, *words: str) -> list[str]:
    own = ("scale.max_steps", "scale.teacher_steps", "scale.eval_every", "data.")
    sizes = [word for word in options(place) if not word.startswith(own)]
    return ["--config-dir", str(place / "studies"), "-cn", "mine", "data=files", *sizes, *words]


def ledger(place: Path, name: str = "mine") -> dict[tuple[str, int], dict[str, Any]]:
    content = json.loads((place / "runs" / "studies" / name / "study.json").read_text())
    return {(job["arm"], job["seed"]): job for job in content["jobs"]}


@pytest.fixture(scope="module")
def first(place: Path) -> Any:
    return dwt_train(*study_command(place), cwd=place, timeout=250)


def test_a_study_goes_on_after_a_failed_job(place: Path, first: Any) -> None:
    assert first.returncode == 2, first.stdout + first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    jobs = ledger(place)
    assert {arm: job["state"] for (arm, _), job in jobs.items()} == {
        "alone": "finished",
        "again": "finished",
        "weak": "finished",
        "torn": "failed",
    }
    assert "data.path" in jobs["torn", 0]["error"]
    assert f"failed: torn, length 4, seed 0: {jobs['torn', 0]['error']}" in first.stdout
    log = place / "runs/studies/mine/logs" / f"{jobs['weak', 0]['identity']}.log"
    assert "what the teacher brought" in log.read_text() and "to know" not in log.read_text()
    summary = place / "runs/studies/mine" / jobs["weak", 0]["folder"] / "summary.json"
    assert json.loads(summary.read_text())["student"]["steps"] == 4


def test_arms_that_are_the_same_run_are_trained_once(place: Path, first: Any) -> None:
    jobs = ledger(place)
    assert jobs["alone", 0]["folder"] == jobs["again", 0]["folder"]
    assert len(list((place / "runs").glob("none-*/summary.json"))) == 1


def test_a_second_start_does_only_what_is_missing(place: Path, first: Any) -> None:
    (place / "runs/studies/mine/study.json").write_text('{"version": 1, "na')  # torn: no matter
    kept = place / "runs/studies/mine/runs.jsonl"
    for was, now in (
        ('"commit": "', '"commit": "of old '),
        ('{"fingerprint": "', '{"fingerprint": "other'),
    ):
        kept.write_text(kept.read_text().replace(was, now))
    before = {path: path.stat().st_mtime_ns for path in place.glob("runs/*/summary.json")}
    words = ["arm=alone", "seed=0,1", "train.compile=auto"]
    again = dwt_train(*study_command(place, *words), cwd=place, timeout=250)
    assert again.returncode == 0, again.stdout + again.stderr
    decision = json.loads((place / "runs/studies/mine/compile.json").read_text())
    assert decision == {"compiled": False, "why": "off: 1 finished before, compiled or not"}
    assert "mine: 2 runs, 1 of them finished before" in again.stdout
    said = " ".join(again.stdout.split())
    assert "warning: 2 runs on record are of another commit, of old " in said
    assert "warning: 2 runs on record are of another text, other" in said
    after = {path: path.stat().st_mtime_ns for path in place.glob("runs/*/summary.json")}
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()
    jobs = ledger(place)
    assert jobs["alone", 1]["state"] == "finished"
    assert jobs.keys() == {("alone", 0), ("alone", 1)}
    assert jobs["alone", 1]["words"][:2] == ["--config-dir", str(place / "studies")]
    assert "run.root=" not in (place / "runs/studies/mine/study.json").read_text()


@pytest.mark.slow  # that a pool asks its processes to stop is tested below
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=lambda end: end.name)
def test_a_study_that_was_stopped_goes_on_in_mid_training(
    place: Path, first: Any, end: signal.Signals
) -> None:
    """Killed, it leaves its run the time for a checkpoint, as when it asks for one itself."""
    command = study_command(place, "arm=long", f"seed={end}", "scale.checkpoint_every=1000")
    started = Started(command, place)
    try:
        started.wait_until(lambda: list(place.glob(f"runs/none-*-seed{end}-*/metrics.jsonl")))
        (folder,) = place.glob(f"runs/none-*-seed{end}-*")
        started.wait_until(lambda: len((folder / "metrics.jsonl").read_text().splitlines()) > 20)
        started.send(end)
        if end is signal.SIGTERM:
            assert started.ended() == 128 + signal.SIGTERM
            assert "to go on: dwt-train" in started.output
        else:
            assert started.ended() == -signal.SIGKILL
            with locks.take(folder / LOCK, timeout_s=60):
                pass
        assert list(folder.glob("checkpoints/step-*"))
        assert not (folder / "summary.json").exists()
    finally:
        Started.end_all()
    again = dwt_train(*command, cwd=place, timeout=250)
    assert again.returncode == 0, again.stdout + again.stderr
    (log,) = place.glob(f"runs/studies/mine/logs/{folder.name[-16:]}.log")
    assert "going on after step" in log.read_text()
    assert json.loads((folder / "summary.json").read_text())["student"]["steps"] == 400


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_load_what_an_earlier_one_has_compiled(place: Path, tmp_path: Path) -> None:
    """In forks of a process that has torch loaded, and has threads."""
    words = ["teacher=none", "seed=3,4", "train.compile=true", *options(place)]
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    done = dwt_train("-m", *words, cwd=place, timeout=850, **cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: compiled" not in done.stdout
    (manifest,) = tmp_path.glob("dwt/compiled/*/manifest.json")
    first, second = (next(place.glob(f"runs/*seed{seed}-*")) for seed in (3, 4))
    ended = [(folder / "summary.json").stat().st_mtime for folder in (first, second)]
    assert manifest.stat().st_mtime < ended[0] < ended[1], "the second one has kept nothing new"
    for folder in (first, second):
        counters = json.loads(next(folder.glob("checkpoints/*/state.json")).read_text())["counters"]
        assert counters["compiled"] is True


@pytest.mark.parametrize(
    "words", [["objective=hidden"], ["parallel=fsdp", "launch=torchrun", "launch.gpus=2"]]
)
def test_where_one_arm_cannot_be_compiled_none_is(
    composed: Callable[..., Run], words: list[str]
) -> None:
    plain, other = composed("train.compile=auto"), composed("train.compile=auto", *words)
    assert sweep._why_plain([plain, plain], 0) is None
    why = sweep._why_plain([plain, other], 0)
    assert why == "off: a run of the study is sharded, compares features or is tuned in part"


@pytest.mark.slow
def test_another_machine_goes_on_with_runs_jsonl(place: Path, first: Any, tmp_path: Path) -> None:
    """What earlier commands asked for stays in the record; models elsewhere are not measured."""
    (tmp_path / "runs/studies/mine").mkdir(parents=True)
    shutil.copy(place / "runs/studies/mine/runs.jsonl", tmp_path / "runs/studies/mine")
    command = study_command(place, "arm=again", "eval.measures=[lm,probing]")
    there = [word.replace(f"{place}/runs", f"{tmp_path}/runs") for word in command]
    again = dwt_train(*there, cwd=tmp_path, timeout=250)
    assert again.returncode == 0, again.stdout + again.stderr
    assert ledger(tmp_path).keys() == ledger(place).keys() | {("again", 0)}
    assert ledger(tmp_path)[("again", 0)]["state"] == "finished"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["studies"], "none is trained"


@pytest.mark.slow
def test_a_plain_multirun_has_arms_too(place: Path, first: Any) -> None:
    words = ["-m", *options(place), "teacher=none", "seed=6", "optim.lr=0.001,0.002"]
    parallel = ["jobs=joblib", "jobs.num_parallel=2", "tracker=wandb"]
    key = "0" * 40
    done = dwt_train(*words, *parallel, cwd=place, timeout=250, WANDB_API_KEY=key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "│ optim.lr=0.002 │ 1     │" in done.stdout
    (name,) = {path.name for path in place.glob("runs/studies/multirun-*")}
    jobs = ledger(place, name)
    assert jobs.keys() == {("optim.lr=0.001", 6), ("optim.lr=0.002", 6)}
    assert {job["state"] for job in jobs.values()} == {"finished"}
    assert "wandb sync" in done.stdout
    assert len(list(place.glob(f"runs/studies/{name}/wandb/offline-run-*"))) == 1
    sent = [json.loads(path.read_text()) for path in place.glob(f"runs/studies/{name}/logs/*.json")]
    assert {each["tracker"]["group"] for each in sent} == {name}
    assert {tag for each in sent for tag in each["tracker"]["tags"]} == {
        *("seed=6", "length=6", "arm=optim.lr=0.001", "arm=optim.lr=0.002")
    }


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Each job's process is a script that looks at its file's name, and at nothing else."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        'trap "touch $4.stopped; exit 130" INT\n'
        'echo "$OMP_NUM_THREADS" > "$4.threads"\n'
        'case "$4" in *long*) while true; do sleep 0.1; done;; esac\n'
        'case "$4" in *bad*) echo "dwt-train: it is bad"; exit 2;; *shot*) kill -9 $$;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    return tmp_path


def outcomes(folder: Path, jobs: Jobs, names: list[str]) -> dict[str, News]:
    files = [folder / f"{name}.json" for name in names]
    return {each.file.stem: each for each in carry_out(files, jobs, fresh)}


def test_the_last_line_is_what_a_job_failed_of(quick_processes: Path) -> None:
    found = outcomes(quick_processes, Basic(), ["good", "bad", "shot", "last"])
    assert {name: each.error for name, each in found.items()} == {
        "good": None,
        "bad": "it is bad",
        "shot": "killed by SIGKILL",
        "last": None,
    }


def test_fail_fast_begins_no_other(quick_processes: Path) -> None:
    found = outcomes(quick_processes, Basic(fail_fast=True), ["good", "bad", "later"])
    assert {name: each.state for name, each in found.items()} == {
        "good": "finished",
        "bad": "failed",
    }


def test_when_nobody_listens_any_more_the_processes_are_asked_to_stop(
    quick_processes: Path,
) -> None:
    files = [quick_processes / f"{name}.json" for name in ("good", "long")]
    at_work = quick_processes / "long.json.threads"
    each = carry_out(files, Joblib(num_parallel=2), fresh)
    assert next(news.file for news in each if news.state == "finished") is files[0]
    while not at_work.exists() or not at_work.read_text():
        time.sleep(0.01)
    each.close()
    assert (quick_processes / "long.json.stopped").exists()


def test_jobs_at_a_time_share_the_cores(quick_processes: Path) -> None:
    outcomes(quick_processes, Joblib(num_parallel=2), ["a", "b", "c"])
    cores = os.cpu_count() or 1
    threads = {path.read_text().strip() for path in quick_processes.glob("*.threads")}
    assert threads == {str(max(1, cores // 2))}


# slow: of the studies on record tests/golden composes each arm
_NOT_ON_RECORD = ("smoke", "temperature")
_STUDIES = [
    pytest.param(name, marks=() if name in _NOT_ON_RECORD else pytest.mark.slow)
    for name in files.sweeps()
]


@pytest.mark.parametrize("name", _STUDIES)
def test_every_shipped_study_composes_all_of_its_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dwt_cli.cli import command, main

    asked: list[Run] = []
    monkeypatch.setattr(command, "starter", nullcontext)
    monkeypatch.setattr(sweep, "carry_out", lambda runs, *_: asked.extend(runs) or 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dwt-train", "-cn", name, "seed=0", "length=30"])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 0
    arms = {run.arm for run in asked}
    study = asked[0].study
    assert {claim.arm for claim in study.claims} | {study.baseline} <= arms
    assert len(arms) == len(asked) >= 3
    for run in asked:
        assert run.train.max_steps == round(30 * run.stretch)
    shutil.rmtree(tmp_path)
