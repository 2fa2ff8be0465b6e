"""``dwt-cache``, on folders made by the code that makes them in a run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dwt_cli.base import atomic, locks
from dwt_cli.base.cache import Cache
from dwt_cli.cli import cache
from dwt_cli.track.metrics import MetricsLog

Capture = pytest.CaptureFixture[str]
CORPUS, TEACHER, HALF = "a" * 16, "b" * 16, "c" * 16


def make(folder: Path) -> None:
    (folder / "content").write_bytes(bytes(500_000))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A corpus, a teacher that was damaged and made again, and half a teacher."""
    root = tmp_path / "cache"
    prepared = Cache(str(root), print)
    prepared.get("corpus", CORPUS, make, {"options": {"path": "books", "block_length": 64}})
    about = {"options": {"num_layers": 2, "width": 128, "max_steps": 300, "seed": 5}}
    teacher = prepared.get("teacher", TEACHER, make, about)
    (teacher / "content").write_bytes(b"not what it was")
    prepared.get("teacher", TEACHER, make, about)

    def stopped(folder: Path) -> None:
        make(folder)
        MetricsLog(folder / "metrics.jsonl", 1).resumed(0)
        (folder / "metrics.jsonl").write_text('{"step": 7, "train/progress": 0.1}\n')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared.get("teacher", HALF, stopped, {})
    return root


@pytest.fixture(autouse=True)
def in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # the workers of pytest have it


def states(root: Path) -> dict[str, str]:
    return {entry.folder.name: entry.state for entry in cache.entries_of(root)}


def test_the_headers_of_compiled_code_are_listed_and_no_leftovers(root: Path) -> None:
    folder = root / "compiled" / "headers" / CORPUS
    folder.mkdir(parents=True)
    make(folder)
    (entry,) = (each for each in cache.entries_of(root) if each.kind == "headers")
    assert (entry.folder, entry.state, entry.size) == (folder, "whole", 500_000)
    assert cache.main(["clean", "--yes", "--cache", str(root)]) == 0
    assert folder.is_dir()


def test_the_cache_is_listed_and_sized(root: Path, capsys: Capture) -> None:
    assert states(root) == {
        CORPUS: "whole",
        TEACHER: "whole",
        f"{TEACHER}.damaged": "damaged",
        f"{HALF}.partial": "unfinished",
    }
    os.utime(root / "corpus" / CORPUS, (0, 0))
    assert cache.main(["--cache", str(root)]) == 0
    output = capsys.readouterr().out
    assert "books, blocks of 64" in output
    assert "2 layers, 128 wide, 300 steps, seed 5" in output
    assert "after step 7" in output
    assert "19" in next(x for x in output.splitlines() if CORPUS in x), "last used long ago"
    assert cache.main(["size", "--cache", str(root)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [["corpus", "1"], ["teacher", "3"], ["all", "4"]]
    assert lines[-1][2:4] == ["1.5", "MB"]


def test_leftovers_are_cleaned_and_nothing_else(root: Path, capsys: Capture) -> None:
    assert cache.main(["clean", "--yes", "--cache", str(root)]) == 0
    assert states(root) == {CORPUS: "whole", TEACHER: "whole"}
    freed = capsys.readouterr().out.splitlines()[-1]
    assert 500 < float(freed.removesuffix(" kB freed")) < 502
    for kind, name in (("corpus", CORPUS), ("teacher", TEACHER)):
        atomic.verify(root / kind / name)
    assert cache.main(["clean", "--yes", "--cache", str(root)]) == 0
    assert capsys.readouterr().out == "nothing to clean\n"


def test_what_was_not_used_for_long_is_cleaned_when_asked(root: Path) -> None:
    ten_days_ago = time.time() - 10 * 86400
    os.utime(root / "corpus" / CORPUS, (ten_days_ago, ten_days_ago))
    for days, left in (("11", {CORPUS, TEACHER}), ("9", {TEACHER}), ("0", set())):
        cache.main(["clean", "--older-than", days, "--yes", "--cache", str(root)])
        assert states(root).keys() == left


def test_nothing_is_deleted_without_an_answer(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = states(root)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert cache.main(["clean", "--cache", str(root)]) == 2
    assert "nothing is deleted: there is no terminal; give --yes" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in (("n", before.keys()), ("", before.keys()), ("y", {CORPUS, TEACHER})):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert cache.main(["clean", "--cache", str(root)]) == 0
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
    assert cache.main(clean) == 0
    assert states(root) == {f"{HALF}.partial": "being made"}
    output = capsys.readouterr().out
    assert f"teacher/{HALF}.partial stays: process {holder.pid} on " in output
    holder.kill()
    holder.communicate()
    assert not locks.is_held(path), "the lock goes with its holder"
    cache.main(clean)
    assert states(root) == {}


@pytest.mark.parametrize("days", ["-1", "nan", "soon"])
def test_days_that_are_none(days: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        cache.main(["clean", "--older-than", days])
    assert left.value.code == 2
    assert "--older-than" in capsys.readouterr().err
