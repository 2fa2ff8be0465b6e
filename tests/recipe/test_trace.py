"""``dwt-trace``, from a run's folder to the page."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

from dwt_cli.base.errors import UserError
from dwt_cli.base.home import INSTEAD
from dwt_cli.cli import trace as command
from dwt_cli.recipe.trace import FinishedRun, Options, carry_out
from dwt_cli.track.summary import Facts, Summary
from tests.miniature import dwt_train, options, write_text
from tests.record import folder_of

WORDS = ["remap=stack", "data.path=my text", "eval.at=[1]", "run.fresh=true"]
AGAIN = "dwt-train remap=stack 'data.path=my text' 'eval.at=[0,0.25,0.5,0.75,1]' run.fresh=true"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's record, with snapshots that are empty, and without its text."""
    folder = tmp_path / "run"
    for name in ("snapshots/0", "snapshots/0.5", "snapshots/.writing", "model"):
        (folder / name).mkdir(parents=True)
    choices = {"task": "mlm", "remap": "random", "student": "large", "explore": "sample"}
    cache = {"run": {"cache": str(tmp_path / "cache")}}
    settings = {"choices": choices, "student": {}, "overrides": WORDS, **cache}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    facts = Facts(1, {"loss": 1.0}, steps=4)
    summary = Summary("run", "f" * 16, choices, 0, 1.0, 1.0, {"fingerprint": "a" * 16}, facts)
    (folder / "summary.json").write_text(json.dumps(summary.to_json()))
    return folder


def problem(folder: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that the command prints."""
    assert command.main([str(folder), "queries.jsonl", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dwt-trace: ")
    return line


def test_what_cannot_be_traced_is_told_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no run" in problem(tmp_path, capsys=capsys)
    assert "is no run" in problem(tmp_path / "none", capsys=capsys)
    for word, value in (("--beta", "-1"), ("--beta", "nan"), ("--visits", "0"), ("--top", "0")):
        assert f"{word} {value}: give" in problem(run, word, value, capsys=capsys)
    gone = problem(run, capsys=capsys)
    assert f"no longer in the cache ({tmp_path}/cache/corpus/{'a' * 16})" in gone
    assert f"--cache, or {AGAIN} makes both" in gone
    assert f"({tmp_path}/other/" in problem(run, "--cache", f"{tmp_path}/other", capsys=capsys)
    at_home = (run / "config.yaml").read_text().replace(str(tmp_path), INSTEAD)
    (run / "config.yaml").write_text(at_home)
    assert f"({Path.home()}/cache/corpus/" in problem(run, capsys=capsys)
    summary = json.loads((run / "summary.json").read_text())
    labelled = summary | {"corpus": {"train_texts": 3}}
    (run / "summary.json").write_text(json.dumps(labelled))
    assert "was trained on labelled texts" in problem(run, capsys=capsys)
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "snapshots/0").rmdir()
    assert f"no snapshot of its start: {AGAIN} trains" in problem(run, capsys=capsys)
    shutil.rmtree(run / "snapshots")
    assert f"no snapshots: {AGAIN} trains it anew" in problem(run, capsys=capsys)
    (run / "summary.json").unlink()
    unfinished = problem(run, capsys=capsys)
    assert "is not finished: dwt-train remap=stack 'data.path=my text' 'eval.at=[1]' " in unfinished


def test_snapshots_are_in_order_and_what_is_half_written_is_none(run: Path) -> None:
    (run / "snapshots/1e-05").mkdir()
    assert list(FinishedRun.read(run).snapshots()) == [0, 1e-05, 0.5, 1]
    (run / "model").rmdir()
    with pytest.raises(UserError, match=r"no model/ of its end: .*run.export=true saves"):
        FinishedRun.read(run).snapshots()


def test_what_makes_scores_mean_something_else_is_said(run: Path) -> None:
    read = FinishedRun.read(run)
    start, writes = read.warnings(1.0)
    assert "random weights" in start and "explore=sample" in writes
    assert read.warnings(0.0) == [writes]
    read.settings["choices"] |= {"remap": "stack", "explore": "none"}
    assert read.warnings(1.0) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mlm", "clm"])
def test_a_run_is_traced_stopped_and_gone_on_with(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "text")
    words = [*options(tmp_path), f"task={task}", "remap=stack", "eval.at=[0,0.5,1]"]
    words += ["scale.vocab_size=400", "scale.max_steps=60"]
    done = dwt_train(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / folder_of(done.stdout)
    masked = {"text": "five dark [MASK] dark.", "answer": "five", "instead": "sum"}
    causal = {"text": "five dark", "answer": "bark five", "instead": "sum"}
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps(causal if task == "clm" else masked) + "\n")

    asked = [sys.executable, "-c", "import dwt_cli.cli.trace as t; raise SystemExit(t.main())"]
    log = (tmp_path / "log").open("w")
    stopped = subprocess.Popen([*asked, folder, file], stdout=log, stderr=log)
    partial = tmp_path / "cache" / "products"
    while not list(partial.glob("*")) and stopped.poll() is None:
        time.sleep(0.01)
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.wait()

    carry_out(folder, file, Options(raw=True), Console())
    said = capsys.readouterr().out
    assert "page: " in said and "scores: " in said
    out = folder / "trace" / "queries"
    scores = pd.read_csv(out / "scores.csv")
    report = json.loads((folder / "summary.json").read_text())["corpus"]
    assert len(scores) == report["train_tokens"] // 16
    moments = scores[["product_at_0.5", "product_at_1"]].mean(axis=1) - scores["product_at_0"]
    assert scores["dda"].to_numpy() == pytest.approx(moments.to_numpy(), rel=1e-9, abs=1e-9)
    assert scores["documents"].str.contains(".txt").all()
    assert "documents unknown" not in (out / "trace.html").read_text()
    carry_out(folder, file, Options(beta=0.0, out=tmp_path / "again"), Console())
    again = pd.read_csv(tmp_path / "again" / "scores.csv").set_index("block")
    other = scores.set_index("block").loc[again.index]
    assert again["product"].to_numpy() == pytest.approx(other["product"].to_numpy(), rel=1e-6)


def test_options_are_checked_before_a_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--top 0"):
        carry_out(tmp_path / "none", tmp_path / "none", Options(top=0), Console())
