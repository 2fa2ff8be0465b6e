"""A process that is forked is one as any: its output, environment, session, parent and end."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwt_cli.config.launch import Start
from dwt_cli.launch import start
from dwt_cli.launch.start import Begin, Child, fresh, starter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")


def work(role: str, file: Path) -> None:
    """What the tests' processes do, in place of a run."""
    libc = ctypes.CDLL(None)
    libc.printf(b"C prints\n")
    own = os.getsid(0) == os.getpid()
    print(os.environ["NAME"], os.environ.get("LEFT"), os.environ.get("HOME"), own, os.getppid())
    print("an error", file=sys.stderr)
    os.environ["LEFT"] = "here"
    if role == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if role == "waits":
        signal.pause()
    sys.exit("a last line" if role == "complains" else 7)


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    monkeypatch.setattr(start, "main", work)  # the server is a fork, and has it too
    monkeypatch.setattr(start, "_LOADED", ())
    with starter() as begin:
        assert begin is not fresh
        yield begin


def begun(begin: Begin, role: str, log: Path) -> Child:
    return begin(role, Path("run.json"), {"NAME": log.stem}, log)


def test_output_environment_and_parent(fork: Begin, tmp_path: Path) -> None:
    each = [begun(fork, "works", tmp_path / name) for name in ("a", "b")]
    assert [process.wait(20) for process in each] == [7, 7]
    for name in ("a", "b"):
        lines = (tmp_path / name).read_text().splitlines()
        assert set(lines) == {"C prints", f"{name} None None True {os.getpid()}", "an error"}


def test_how_it_ends(fork: Begin, tmp_path: Path) -> None:
    assert begun(fork, "killed", tmp_path / "a").wait(20) == -signal.SIGKILL
    complains = begun(fork, "complains", tmp_path / "b")
    assert complains.wait(20) == 1
    assert "a last line" in (tmp_path / "b").read_text().splitlines()
    waits = begun(fork, "waits", tmp_path / "c")
    assert waits.wait(0.1) is None
    os.kill(waits.pid, signal.SIGTERM)
    assert waits.wait(20) == -signal.SIGTERM


def test_without_its_server_a_process_is_fresh(fork: Begin, tmp_path: Path) -> None:
    *_, server = map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    os.kill(server, signal.SIGKILL)
    process = fork("job", tmp_path / "none.json", os.environ, tmp_path / "log")
    assert process.wait(60) == 2
    assert "none.json" in (tmp_path / "log").read_text()


def test_what_cannot_begin_is_answered(
    monkeypatch: pytest.MonkeyPatch, fork: Begin, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="no/log"):
        begun(fork, "works", tmp_path / "no" / "log")
    monkeypatch.setattr(start, "fresh", None)
    assert begun(fork, "works", tmp_path / "log").wait(20) == 7, "the next one can"


def test_where_a_fork_cannot_fork_a_process_is_fresh(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    depth, forked = 0, os.fork

    def fork() -> int:
        nonlocal depth
        if depth == 2:  # of the server's forks
            raise BlockingIOError("Resource temporarily unavailable")
        pid = forked()
        depth += pid == 0
        return pid

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(start, "_LOADED", ())
    monkeypatch.setattr(start, "fresh", lambda role, *_: role)
    with starter() as begin:
        assert [begun(begin, role, tmp_path / "log") for role in ("a", "b")] == ["a", "b"]


def test_without_a_pidfd_it_begins_once(
    monkeypatch: pytest.MonkeyPatch, fork: Begin, tmp_path: Path
) -> None:
    """As where the kernel is old, or a container forbids it."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(start, "fresh", None)
    assert begun(fork, "works", tmp_path / "log").wait(20) == 7


def test_a_fresh_process_stays_a_choice() -> None:
    with starter(Start.fresh) as begin:
        assert begin is fresh
