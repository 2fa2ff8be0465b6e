"""Commands that are harmed at a random moment, and typed again: they end as if nothing had been.

    python -m tests.faults kills 100
    python -m tests.faults room 45
    python -m tests.faults stops 45

The phases of `tests.faults.phases` take turns. A moment is drawn by its number alone, so that
anyone draws the same ones; what it meets then differs between machines. What is done is in
`tests.faults.harms`: the command is killed, its disk is full, or it is asked to stop. What lies
there after the second start is compared with what an undisturbed start has left: weights,
optimizer, counters, metrics, texts, scores and tables, but for clocks. Answers are kept: typed
again, it does what is missing or was different.
"""

import ctypes
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dwt_cli.base import atomic
from dwt_cli.base.machine import commit
from tests.faults.harms import HARMS, OWN, Harm, orphans
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

    died: it was at work until then. different: what then was not as it is undisturbed, or wrong.
    said: of what its harm was, by the command itself. commit: at which it was done.
    """

    number: int
    phase: str
    moment_s: float
    died: bool
    seconds: float
    different: list[str]
    said: str = ""
    commit: str = ""

    @property
    def wrong(self) -> list[str]:
        """What was not as it should be."""
        return self.different

    @property
    def line(self) -> str:
        """The kill in a line."""
        when = f"{self.moment_s:.2f} s, {'at work' if self.died else 'had ended'}"
        what = self.said or "killed"
        return f"{self.number}, {self.phase}, {when}: {what}: {self.wrong or 'no difference'}"


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
            lines = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = lines
        elif path.name in _OF_THE_MACHINE:
            found[name] = "there"
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            table = pd.read_csv(path)
            kept = [column for column in table if not any(word in column for word in _CLOCKS)]
            found[name] = table[kept].to_csv()
        elif path.suffix in (".safetensors", ".npy"):
            found[name] = path.read_bytes()
        else:
            found[name] = "there"
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        named = {key: timeless(each) for key, each in value.items()}
        return {k: v for k, v in named.items() if not any(word in k for word in _CLOCKS)}
    return [timeless(each) for each in value] if isinstance(value, list) else value


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


def moment_came(started: Started, phase: Phase, place: Path, moment_s: float) -> None:
    """Wait for a kill's moment, or for the command's end."""
    while phase.sign and started.is_at_work and not any(place.glob(phase.sign)):
        time.sleep(0.001)
    until = time.monotonic() + moment_s
    while started.is_at_work and time.monotonic() < until:
        time.sleep(0.001)


def answers(
    num_kills: int, into: Path, phases: dict[str, Phase] = PHASES, harm: Harm = HARMS["kills"]
) -> Iterator[Kill]:
    """Yield the kills of so many numbers, those on record first; write the others down."""
    record = into / f"{harm.name}.jsonl"
    lines = [Kill(**json.loads(line)) for line in record.open()] if record.exists() else []
    right = {each.number: each for each in lines if not each.different}
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    names = list(phases)
    with tempfile.TemporaryDirectory(prefix=f"{harm.name}-") as folder:
        trials = Trials(harm, Path(folder))
        trials.place.mkdir()
        with harm.disk(trials.place):
            if not right.keys() >= set(range(num_kills)):
                trials.source.mkdir()
                prepare(trials.source)
                OWN.update(orphans())
            for number in range(num_kills):
                if number not in right:
                    name = names[number % len(names)]
                    right[number] = trials.harmed(number, name, phases[name])
                    with record.open("a") as file:
                        print(json.dumps(asdict(right[number])), file=file)
                yield right[number]


@dataclass(frozen=True)
class Trials:
    """Commands in a folder, each begun with what its phase has of what is prepared beside it."""

    harm: Harm
    folder: Path
    undisturbed: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def place(self) -> Path:
        return self.folder / "place"

    def start(self, phase: Phase) -> Started:
        """Begin a command; its output is not on the disk that may be full."""
        return Started(phase.words, self.place, logs=self.folder)

    def alone(self, phase: Phase) -> tuple[float, dict[str, Any]]:
        """Return the seconds that a command takes by itself, and what it leaves."""
        fresh(phase.before, self.source, self.place)
        begun = time.monotonic()
        started = self.start(phase)
        assert started.ended(600) == 0, started.output
        return time.monotonic() - begun, content(self.place)

    def harmed(self, number: int, name: str, phase: Phase) -> Kill:
        """Harm a command, type it again, and compare."""
        if name not in self.undisturbed:
            self.undisturbed[name] = self.alone(phase)
        whole_s, theirs = self.undisturbed[name]
        fresh(phase.before, self.source, self.place)
        begun, moment_s = time.monotonic(), drawn(number, phase, whole_s)
        started = self.start(phase)
        moment_came(started, phase, self.place, moment_s)
        died = started.is_at_work
        said, found = self.harm(started, self.place, number)
        again = self.start(phase)
        if code := again.ended(600):
            found.append(f"exit code {code}: {again.output[-300:]}")
        else:
            found += differences(self.place, theirs)
        if "Traceback" in again.output:
            found.append("a traceback, the second time")
        seconds = round(time.monotonic() - begun, 1)
        return Kill(number, name, round(moment_s, 3), died, seconds, found, said, commit())


def fresh(before: Callable[[Path, Path], None], source: Path, place: Path) -> None:
    """Empty a folder, and make it what something begins with, of what is prepared."""
    for left in place.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    before(source, place)


def table(kills: Sequence[Kill]) -> str:
    """Return the table of kills by phase, as Markdown."""
    lines = [
        "| phase | harmed | numbers (seeds) | ended before | differences |",
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
