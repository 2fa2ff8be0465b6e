"""What is kept where: ``dwt-runs`` and ``dwt-cache``. Imports no torch."""

import argparse
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dwt_cli.base import atomic, cache, locks
from dwt_cli.base.atomic import read_json
from dwt_cli.recipe.record import LOCK
from dwt_cli.track.metrics import newest

_DAY_S = 86_400.0
_NOTHING_SAID = 2  # the exit code of a question that nobody could answer


# ---------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class SeenRun:
    """What a run directory says of itself to somebody who passes by.

    state: running | interrupted | failed | finished, or dead: said to be running by a process that
    is no longer there. step, total: None where nothing is known. loss: the newest held-out one.
    """

    folder: Path
    state: str
    step: int | None
    total: int | None
    loss: float | None
    teacher: str
    when: datetime | None


def seen_runs(root: Path) -> list[SeenRun]:
    """The runs of a folder, the one that was touched last at the end."""
    runs = [_seen(path.parent) for path in root.glob("*/status.json")]
    return sorted(runs, key=lambda run: (run.when.timestamp() if run.when else 0.0, run.folder))


def _seen(folder: Path) -> SeenRun:
    status = read_json(folder / "status.json") or {}
    summary = read_json(folder / "summary.json")
    state = "finished" if summary else str(status.get("state", "?"))
    if state == "running" and not locks.is_held(folder / LOCK):
        state = "dead"
    step, progress, loss = newest(folder / "metrics.jsonl")
    return SeenRun(
        folder,
        state,
        step,
        round(step / progress) if step and progress else None,
        summary["student"]["heldout"]["loss"] if summary else loss,
        str(status.get("teacher") or "?"),
        datetime.fromisoformat(status["time"]).astimezone() if "time" in status else None,
    )


def runs_main(arguments: Sequence[str] | None = None) -> int:
    """``dwt-runs``: the runs of a folder."""
    parser = argparse.ArgumentParser(
        "dwt-runs", description="List runs and how far they have come."
    )
    parser.add_argument("action", nargs="?", choices=["list"], default="list")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="as run.root (runs)")
    root: Path = parser.parse_args(arguments).root.expanduser()
    runs = seen_runs(root)
    table = _table("state", ">step", ">held-out", "teacher", "when", "run")
    for run in runs:
        table.add_row(
            run.state,
            "" if run.step is None else f"{run.step} of {run.total or '?'}",
            "" if run.loss is None else f"{run.loss:.3f}",
            run.teacher,
            f"{run.when:%Y-%m-%d %H:%M}" if run.when else "",
            run.folder.name,
        )
    if not runs:
        print(f"no runs in {root}")
        return 0
    _console().print(table)
    if any(run.state == "dead" for run in runs):
        print("dead: its process is gone without a word; the same command goes on with the run")
    return 0


# --------------------------------------------------------------------------------------- cache


@dataclass(frozen=True)
class Kept:
    """A folder of the cache.

    state: whole | being made | unfinished (its maker was stopped and may go on) | damaged (set
    aside, never used again). used: when it was opened or written to, in seconds since 1970.
    """

    folder: Path
    kind: str
    fingerprint: str
    state: str
    size: int
    used: float
    what: str

    @property
    def lock(self) -> Path:
        return self.folder.with_name(self.fingerprint + cache.LOCK)


def kept(root: Path) -> list[Kept]:
    """Everything in a cache, by kind, the least recently used first."""
    found = [
        _kept(folder, *name.groups())
        for folder in root.glob("*/*")
        if (name := re.fullmatch(r"([0-9a-f]{16})(\.\w+)?", folder.name)) and folder.is_dir()
    ]
    return sorted(found, key=lambda entry: (entry.kind, entry.used))


def _kept(folder: Path, fingerprint: str, suffix: str | None) -> Kept:
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    state = "whole" if atomic.is_sealed(folder) and suffix is None else "unfinished"
    if suffix == cache.DAMAGED:
        state = "damaged"
    elif suffix == cache.PARTIAL and locks.is_held(folder.with_name(fingerprint + cache.LOCK)):
        state = "being made"
    used = folder.stat().st_mtime
    return Kept(
        folder,
        folder.parent.name,
        fingerprint,
        state,
        sum(file.st_size for file in files),
        used if state == "whole" else max([used, *(file.st_mtime for file in files)]),
        _what(folder),
    )


def _what(folder: Path) -> str:
    """What made an artifact, in a few words."""
    options = (read_json(folder / cache.ABOUT) or {}).get("options", {})
    report, facts = read_json(folder / "report.json"), read_json(folder / "facts.json")
    words = []
    if folder.parent.name == "teacher" and options:
        words += [f"{options['num_layers']} layers", f"{options['width']} wide"]
        words += [f"{options['max_steps']} steps", f"seed {options['seed']}"]
    if folder.parent.name == "corpus" and options:
        words += [_source(options), f"blocks of {options['block_length']}"]
    if folder.parent.name == "scores" and options:
        words.append(options["name"])
    if report:
        words += [f"{report['train_tokens']:,} tokens", f"vocabulary {report['vocabulary']:,}"]
    if facts:
        words.append(f"held-out {facts['heldout']['loss']:.3f}")
    step, _, _ = newest(folder / "metrics.jsonl")
    if step is not None and not facts:
        words.append(f"after step {step}")
    return ", ".join(words)


def _source(options: dict[str, Any]) -> str:
    if "path" in options:
        return str(options["path"])
    if "parts" in options:
        return " + ".join(str(part["dataset"]) for part in options["parts"])
    return " + ".join(options.get("packages") or ["documentation"])


def clean(entries: Iterable[Kept]) -> Iterator[tuple[Kept, str | None]]:
    """Delete entries; yields each with None, or with who is at work on it, and then it stays."""
    for entry in entries:
        try:
            lock = locks.take(entry.lock)
        except locks.Held as holder:
            yield entry, str(holder)
            continue
        try:
            if entry.folder.exists():
                (entry.folder / atomic.MANIFEST).unlink(missing_ok=True)  # no longer counts
                shutil.rmtree(entry.folder)
        finally:
            lock.release()
        yield entry, None


def cache_main(arguments: Sequence[str] | None = None) -> int:
    """``dwt-cache``: the prepared corpora and teachers."""
    parser = argparse.ArgumentParser(
        "dwt-cache", description="List, size and clean prepared corpora and teachers."
    )
    parser.add_argument("action", nargs="?", choices=["list", "size", "clean"], default="list")
    parser.add_argument("--cache", metavar="DIR", help="as run.cache (the user's cache folder)")
    parser.add_argument(
        "--older-than",
        type=_days,
        metavar="DAYS",
        help="clean: also what was last used so long ago; without it only leftovers",
    )
    parser.add_argument("--yes", action="store_true", help="clean: do not ask")
    options = parser.parse_args(arguments)
    root = Path(options.cache).expanduser() if options.cache else cache.default_root()
    entries = kept(root)
    if options.action == "clean":
        return _clean(entries, options.older_than, options.yes)
    if not entries:
        print(f"nothing is kept in {root}")
        return 0
    if options.action == "list":
        _list(entries)
    for kind in sorted({entry.kind for entry in entries}):
        of_kind = [entry for entry in entries if entry.kind == kind]
        print(f"{kind:<9} {len(of_kind):>4}  {_size(of_kind):>9}")
    print(f"{'all':<9} {len(entries):>4}  {_size(entries):>9}  in {root}")
    return 0


def _list(entries: list[Kept]) -> None:
    table = _table("kind", "fingerprint", "state", ">size", "last used", "what")
    for entry in entries:
        used = f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}"
        table.add_row(entry.kind, entry.fingerprint, entry.state, _size([entry]), used, entry.what)
    _console().print(table)


def _clean(entries: list[Kept], older_than: float | None, agreed: bool) -> int:
    before = -1.0 if older_than is None else time.time() - older_than * _DAY_S
    chosen = [
        entry
        for entry in entries
        if entry.state in ("unfinished", "damaged") or entry.used <= before
    ]
    if not chosen:
        print("nothing to clean")
        return 0
    _list(chosen)
    if not agreed:
        question = f"delete {len(chosen)} folders, {_size(chosen)}? [y/N] "
        if not sys.stdin.isatty():
            print(f"{question}\nnothing is deleted: nobody is there to answer; give --yes")
            return _NOTHING_SAID
        if input(question).strip().lower() not in ("y", "yes"):
            print("nothing is deleted")
            return 0
    freed = []
    for entry, holder in clean(chosen):
        if holder is None:
            freed.append(entry)
        else:
            print(f"{entry.kind}/{entry.folder.name} stays: {holder} is at work on it")
    print(f"{_size(freed)} freed")
    return 0


def _days(text: str) -> float:
    days = float(text)
    if not days >= 0:
        raise argparse.ArgumentTypeError(f"{text}: give a number of days, 0 or more")
    return days


def _size(entries: Iterable[Kept]) -> str:
    size = sum(entry.size for entry in entries)
    for unit, bytes_per in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_per:
            return f"{size / bytes_per:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def _table(*headings: str) -> Table:
    """``>`` before a heading: the column's values are aligned to the right."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(heading.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return table


def _console() -> Console:
    """As wide as the terminal; in a pipe or file every row is one line."""
    return Console() if sys.stdout.isatty() else Console(width=1000)
