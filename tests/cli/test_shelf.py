"""``dwt-runs`` and ``dwt-cache``, on folders made by the code that makes them in a run."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dwt_cli.base import atomic, locks
from dwt_cli.base.cache import Cache
from dwt_cli.base.identity import plain
from dwt_cli.base.ranks import ALONE
from dwt_cli.cli import shelf
from dwt_cli.config.run import Run
from dwt_cli.recipe.record import Label, Record, readable
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.track.summary import Facts, Summary

Capture = pytest.CaptureFixture[str]
CORPUS, TEACHER, HALF = "a" * 16, "b" * 16, "c" * 16


def record(composed: Callable[..., Run], root: Path, seed: int) -> Record:
    run, choices = composed("teacher=weak", f"seed={seed}"), {"teacher": "weak"}
    name = readable(choices, run.overrides, seed)
    return Record(root, Label(name, f"{seed:016d}", choices, seed, plain(run)), print, ALONE)


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
        seen = {run.folder: run for run in shelf.seen_runs(tmp_path)}
        assert seen[running.folder].state == "running"
        assert shelf.runs_main(["--root", str(tmp_path)]) == 0
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
    assert "dead: its process is gone" in output


def test_no_runs_is_said(tmp_path: Path, capsys: Capture) -> None:
    assert shelf.runs_main(["list", "--root", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path / 'none'}\n"
    assert not (tmp_path / "none").exists()


def make(folder: Path) -> None:
    (folder / "content").write_bytes(bytes(500_000))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A corpus, a teacher that was damaged and made again, and half a teacher."""
    root = tmp_path / "cache"
    cache = Cache(str(root), print)
    cache.get("corpus", CORPUS, make, {"options": {"path": "books", "block_length": 64}})
    about = {"options": {"num_layers": 2, "width": 128, "max_steps": 300, "seed": 5}}
    teacher = cache.get("teacher", TEACHER, make, about)
    (teacher / "content").write_bytes(b"not what it was")
    cache.get("teacher", TEACHER, make, about)

    def stopped(folder: Path) -> None:
        make(folder)
        MetricsLog(folder / "metrics.jsonl", 1).resumed(0)
        (folder / "metrics.jsonl").write_text('{"step": 7, "train/progress": 0.1}\n')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get("teacher", HALF, stopped, {})
    return root


def states(root: Path) -> dict[str, str]:
    return {entry.folder.name: entry.state for entry in shelf.kept(root)}


def test_the_cache_is_listed_and_sized(root: Path, capsys: Capture) -> None:
    assert states(root) == {
        CORPUS: "whole",
        TEACHER: "whole",
        f"{TEACHER}.damaged": "damaged",
        f"{HALF}.partial": "unfinished",
    }
    os.utime(root / "corpus" / CORPUS, (0, 0))
    assert shelf.cache_main(["--cache", str(root)]) == 0
    output = capsys.readouterr().out
    assert "books, blocks of 64" in output
    assert "2 layers, 128 wide, 300 steps, seed 5" in output
    assert "after step 7" in output
    assert "19" in next(x for x in output.splitlines() if CORPUS in x), "last used long ago"
    assert shelf.cache_main(["size", "--cache", str(root)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["corpus", "1"], ["teacher", "3"], ["all", "4"]]
    assert lines[-1][2:4] == ["1.5", "MB"]


def test_leftovers_are_cleaned_and_nothing_else(root: Path, capsys: Capture) -> None:
    assert shelf.cache_main(["clean", "--yes", "--cache", str(root)]) == 0
    assert states(root) == {CORPUS: "whole", TEACHER: "whole"}
    freed = capsys.readouterr().out.splitlines()[-1]
    assert 500 < float(freed.removesuffix(" kB freed")) < 502
    for kind, name in (("corpus", CORPUS), ("teacher", TEACHER)):
        atomic.verify(root / kind / name)
    assert shelf.cache_main(["clean", "--yes", "--cache", str(root)]) == 0
    assert capsys.readouterr().out == "nothing to clean\n"


def test_what_was_not_used_for_long_is_cleaned_when_asked(root: Path) -> None:
    ten_days_ago = time.time() - 10 * 86400
    os.utime(root / "corpus" / CORPUS, (ten_days_ago, ten_days_ago))
    for days, left in (("11", {CORPUS, TEACHER}), ("9", {TEACHER}), ("0", set())):
        shelf.cache_main(["clean", "--older-than", days, "--yes", "--cache", str(root)])
        assert states(root).keys() == left


def test_nothing_is_deleted_without_an_answer(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = states(root)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert shelf.cache_main(["clean", "--cache", str(root)]) == 2
    assert "nothing is deleted: nobody is there to answer; give --yes" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in (("n", before.keys()), ("", before.keys()), ("y", {CORPUS, TEACHER})):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert shelf.cache_main(["clean", "--cache", str(root)]) == 0
        assert states(root).keys() == left


def test_what_another_process_works_on_stays(root: Path, capsys: Capture) -> None:
    code = (
        "import sys, pathlib; from dwt_cli.base import locks;"
        "lock = locks.take(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    path = root / "teacher" / f"{HALF}.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert states(root)[f"{HALF}.partial"] == "being made"
    clean = ["clean", "--older-than", "0", "--yes", "--cache", str(root)]
    assert shelf.cache_main(clean) == 0
    assert states(root) == {f"{HALF}.partial": "being made"}
    said = capsys.readouterr().out
    assert f"teacher/{HALF}.partial stays: process {holder.pid} on " in said
    holder.kill()
    holder.communicate()
    assert not locks.is_held(path), "the lock goes with its holder"
    shelf.cache_main(clean)
    assert states(root) == {}


@pytest.mark.parametrize("days", ["-1", "nan", "soon"])
def test_days_that_are_none(days: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        shelf.cache_main(["clean", "--older-than", days])
    assert left.value.code == 2
    assert "--older-than" in capsys.readouterr().err


def test_no_torch_is_loaded() -> None:
    code = "import sys; from dwt_cli.cli import shelf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
