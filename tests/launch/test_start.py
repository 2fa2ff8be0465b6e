"""A process that is forked is one as any: its output, environment, session, parent and end."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwt_cli.config.launch import Start
from dwt_cli.launch import start
from dwt_cli.launch.start import Forks, Fresh, Process, starter

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
def forks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fresh]:
    monkeypatch.setattr(start, "main", work)  # the server is a fork, and has it too
    monkeypatch.setattr(start, "_LOADED", ())
    with starter() as processes:
        yield processes


def begun(processes: Fresh, role: str, log: Path) -> Process:
    with log.open("wb") as output:
        return processes.begin(role, "run.json", {"NAME": log.stem}, output)


def test_output_environment_and_parent(forks: Fresh, tmp_path: Path) -> None:
    each = [begun(forks, "works", tmp_path / name) for name in ("a", "b")]
    assert [process.wait(20) for process in each] == [7, 7]
    for name in ("a", "b"):
        lines = (tmp_path / name).read_text().splitlines()
        assert set(lines) == {"C prints", f"{name} None None True {os.getpid()}", "an error"}


def test_how_it_ends(forks: Fresh, tmp_path: Path) -> None:
    assert begun(forks, "killed", tmp_path / "a").wait(20) == -signal.SIGKILL
    complains = begun(forks, "complains", tmp_path / "b")
    assert complains.wait(20) == 1
    assert "a last line" in (tmp_path / "b").read_text().splitlines()
    waits = begun(forks, "waits", tmp_path / "c")
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(0.1)
    os.kill(waits.pid, signal.SIGTERM)
    assert waits.wait(20) == -signal.SIGTERM


def test_without_its_server_a_process_is_fresh(forks: Fresh, tmp_path: Path) -> None:
    assert isinstance(forks, Forks)
    os.kill(forks._server, signal.SIGKILL)
    with (tmp_path / "log").open("wb") as output:
        process = forks.begin("job", tmp_path / "none.json", dict(os.environ), output)
    assert process.wait(60) == 2
    assert "none.json" in (tmp_path / "log").read_text()


def test_a_fresh_process_stays_a_choice() -> None:
    assert type(starter(Start.fresh)) is Fresh
