"""Commands that are killed at a random moment, and typed again: they end as if nothing had been.

    python -m tests.faults kills 100

The phases of `tests.faults.phases` take turns. The moment of a kill is drawn by its number alone,
so that anyone draws the same ones; what it meets then differs between machines. Killed is the
command with all its processes. What lies there after the second start is compared with what an
undisturbed start has left: weights, optimizer, counters, metrics, texts, scores and tables, but
for clocks. Answers are kept: typed again, it does what is missing or was different.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dwt_cli.base import atomic
from tests.faults.phases import PHASES, Phase, prepare
from tests.processes import Started

_PR_SET_CHILD_SUBREAPER = 36
_CLOCKS = (
    *("second", "elapsed", "per_s", "time", "peak_memory", "when"),
    *("pid", "host", "environment", "sync"),
)
_SKIPPED = (".rows", ".lock", ".png", ".log", ".html", ".txt")
"""Files that follow from others, are of one process, or are numbered by who came first."""


_OF_THE_MACHINE = ("manifest.json", "status.json", "about.json", "environment.json")
"""Files that have to be there: sums of others, processes, the state of the checkout."""


@dataclass(frozen=True)
class Kill:
    """A kill. moment_s: after the command's begin, or after the sign of its phase.

    died: it was at work until then. different: what then was not as it is undisturbed.
    """

    number: int
    phase: str
    moment_s: float
    died: bool
    seconds: float
    different: list[str]


def drawn(number: int, phase: Phase, undisturbed_s: float) -> float:
    """Return the moment of a kill, in seconds."""
    share = random.Random(number).random()
    return share * (phase.after_s if phase.sign else undisturbed_s)


def content(place: Path) -> dict[str, Any]:
    """Return what a place holds of results, by file: bytes, or values without clocks."""
    found: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        of_logs = ("/logs/" in name) or name.startswith(("text/", "output-")) or "/signal/" in name
        if not path.is_file() or of_logs or path.name.endswith(_SKIPPED):
            continue
        if path.suffix == ".jsonl":
            lines = [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = lines
        elif path.name in _OF_THE_MACHINE:
            found[name] = "there"
        elif path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            table = pd.read_csv(path)
            kept = [column for column in table if not any(word in column for word in _CLOCKS)]
            found[name] = table[kept].to_csv()
        elif path.suffix in (".safetensors", ".npy"):
            found[name] = path.read_bytes()
        else:
            found[name] = "there"
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        named = {key: _timeless(each) for key, each in value.items()}
        return {k: v for k, v in named.items() if not any(word in k for word in _CLOCKS)}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def differences(place: Path, undisturbed: dict[str, Any]) -> list[str]:
    """Return the files that differ, or are on one side alone; sealed folders are looked through."""
    ours = content(place)
    for manifest in place.rglob(f"cache/*/*/{atomic.MANIFEST}"):
        try:
            atomic.verify(manifest.parent)
        except atomic.Damaged as damage:
            ours[str(damage)] = None
    every = sorted(ours.keys() | undisturbed.keys())
    return [name for name in every if ours.get(name, "") != undisturbed.get(name, "")]


def end(started: Started) -> bool:
    """Kill a command with all that it has started; return whether it was at work."""
    was_at_work = started.is_at_work
    with suppress(ProcessLookupError):
        os.kill(started.pid, signal.SIGKILL)
    started.ended()
    until = time.monotonic() + 30
    while (left := _orphans()) and time.monotonic() < until:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return was_at_work


_OWN: set[int] = set()


def _orphans() -> list[int]:
    """Return the children of this process that a killed one has left to it."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, children) if pid not in _OWN]


def moment_came(started: Started, phase: Phase, place: Path, moment_s: float) -> None:
    """Wait for a kill's moment, or for the command's end."""
    while phase.sign and started.is_at_work and not any(place.glob(phase.sign)):
        time.sleep(0.001)
    until = time.monotonic() + moment_s
    while started.is_at_work and time.monotonic() < until:
        time.sleep(0.001)


def answers(num_kills: int, into: Path, phases: dict[str, Phase] = PHASES) -> Iterator[Kill]:
    """Yield the kills of so many numbers, those on record first; write the others down."""
    record = into / "kills.jsonl"
    lines = [Kill(**json.loads(line)) for line in record.open()] if record.exists() else []
    right = {each.number: each for each in lines if not each.different}
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    names, undisturbed = list(phases), dict[str, tuple[float, dict[str, Any]]]()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        source, place = Path(folder, "source"), Path(folder, "place")
        if not right.keys() >= set(range(num_kills)):
            source.mkdir()
            prepare(source)
            _OWN.update(_orphans())  # the server that forks commands, and what it needs
        for number in range(num_kills):
            if number not in right:
                name = names[number % len(names)]
                if name not in undisturbed:
                    undisturbed[name] = _undisturbed(phases[name], source, place)
                right[number] = _killed(number, name, phases[name], source, place, undisturbed)
                with record.open("a") as file:
                    print(json.dumps(asdict(right[number])), file=file)
            yield right[number]


def _fresh(phase: Phase, source: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    phase.before(source, place)


def _undisturbed(phase: Phase, source: Path, place: Path) -> tuple[float, dict[str, Any]]:
    """Return the seconds that a command takes by itself, and what it leaves."""
    _fresh(phase, source, place)
    begun = time.monotonic()
    started = Started(phase.words, place)
    assert started.ended() == 0, started.output
    return time.monotonic() - begun, content(place)


def _killed(
    number: int, name: str, phase: Phase, source: Path, place: Path,
    undisturbed: dict[str, tuple[float, dict[str, Any]]],
) -> Kill:  # fmt: skip
    whole_s, theirs = undisturbed[name]
    _fresh(phase, source, place)
    begun, moment_s = time.monotonic(), drawn(number, phase, whole_s)
    started = Started(phase.words, place)
    moment_came(started, phase, place, moment_s)
    died = end(started)
    again = Started(phase.words, place)
    code = again.ended(600)
    found = [f"exit code {code}: {again.output[-300:]}"] if code else differences(place, theirs)
    if "Traceback" in again.output:
        found.append("a traceback")
    seconds = round(time.monotonic() - begun, 1)
    return Kill(number, name, round(moment_s, 3), died, seconds, found)


def table(kills: list[Kill]) -> str:
    """Return the table of kills by phase, as Markdown."""
    lines = [
        "| phase | kills | numbers (seeds) | ended before | differences |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(each.phase for each in kills):
        of = [each for each in kills if each.phase == name]
        numbers = ", ".join(str(each.number) for each in of)
        different = sum(bool(each.different) for each in of)
        died = sum(each.died for each in of)
        lines.append(f"| {name} | {died} | {numbers} | {len(of) - died} | {different} |")
    died, different = (sum(each.died for each in kills), sum(bool(k.different) for k in kills))
    return "\n".join([*lines, f"| all | {died} | | {len(kills) - died} | {different} |"])
