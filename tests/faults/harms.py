"""What befalls a command at its moment: it is killed, its disk is full, it is asked to stop."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from tests.processes import Started

DISK = "24m"
"""The size of a disk that is filled: several times what a command writes."""

DEADLINE_S = 60
"""What a command may take to end that was asked to, or that cannot write; then it is killed."""


class Harm(Protocol):
    """What is done to a command. name: of its table and its record."""

    name: str

    def disk(self, place: Path) -> AbstractContextManager[object]:
        """Make ``place`` a disk of its own, if that is needed."""

    def __call__(self, started: Started, place: Path, number: int) -> tuple[str, list[str]]:
        """Do it; return what the command then said and what was wrong with that."""


class Killed:
    """SIGKILL, to the command and all that it has started."""

    name = "kills"

    def disk(self, place: Path) -> AbstractContextManager[object]:
        return nullcontext()

    def __call__(self, started: Started, place: Path, number: int) -> tuple[str, list[str]]:
        end_all(started)
        return "", []


class FullDisk:
    """No byte is left on the disk that all is on: one line says so. Then there is room again."""

    name = "room"

    @contextmanager
    def disk(self, place: Path) -> Iterator[None]:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
        subprocess.run(mount, check=True)  # for root alone
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=False)

    def __call__(self, started: Started, place: Path, number: int) -> tuple[str, list[str]]:
        ballast = place / ".ballast"
        with suppress(ProcessLookupError):
            started.send(signal.SIGSTOP)
            _fill(ballast)
            started.send(signal.SIGCONT)
        code, wrong = _ended(started)
        said = [line for line in started.output.splitlines() if line.startswith("dwt-")]
        if code == 0:
            said = ["nothing was left to write"]
        elif code != 2 or len(said) != 1:
            wrong.append(f"exit code {code}: {started.output[-400:]}")
        elif "cannot be written to (no space left on device)" not in said[0]:
            wrong.append("the line names no place without room")
        ballast.unlink(missing_ok=True)
        return said[0] if said else "", wrong


class AskedToStop:
    """SIGTERM or SIGUSR1, in turn, with a deadline: a line says what goes on, nothing is lost."""

    name = "stops"

    def disk(self, place: Path) -> AbstractContextManager[object]:
        return nullcontext()

    def __call__(self, started: Started, place: Path, number: int) -> tuple[str, list[str]]:
        asked = (signal.SIGTERM, signal.SIGUSR1)[number % 2]
        begun = time.monotonic()
        with suppress(ProcessLookupError):
            started.send(asked)
        code, wrong = _ended(started)
        seconds = time.monotonic() - begun
        said = [line for line in started.output.splitlines() if "to go on: " in line]
        if code == 0:
            return f"{asked.name}: it was at its end", wrong
        if code != 128 + asked or len(said) != 1:
            wrong.append(f"exit code {code}: {started.output[-400:]}")
        words = said[0].partition("; to go on")[0].partition(": ")[2] if said else ""
        return f"{asked.name}: {words} in {seconds:.1f} s", wrong


HARMS: dict[str, Harm] = {each.name: each for each in (Killed(), FullDisk(), AskedToStop())}


def _fill(ballast: Path) -> None:
    """Leave no byte on a disk."""
    with ballast.open("ab") as file:
        while free := os.statvfs(ballast.parent).f_bavail * os.statvfs(ballast.parent).f_bsize:
            with suppress(OSError):  # somebody else was faster
                os.posix_fallocate(file.fileno(), file.tell(), free)
            file.seek(0, os.SEEK_END)


def _ended(started: Started) -> tuple[int, list[str]]:
    """Return the exit code, and what was wrong with the way in which a command has ended."""
    wrong = []
    try:
        code = started.ended(DEADLINE_S)
    except AssertionError:
        wrong.append(f"at work after {DEADLINE_S} s")
        code = -signal.SIGKILL
    if "Traceback" in started.output:
        wrong.append("a traceback")
    end_all(started)
    return code, wrong


OWN: set[int] = set()
"""Children that are no command's: the server that forks commands, and what it needs."""


def end_all(started: Started) -> None:
    """Kill a command with all that it has started."""
    with suppress(ProcessLookupError):
        os.kill(started.pid, signal.SIGKILL)
    started.ended()
    until = time.monotonic() + 30
    while (left := orphans()) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def orphans() -> list[int]:
    """Return the children of this process that a killed one has left to it."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, children) if pid not in OWN]
