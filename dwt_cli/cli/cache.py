"""``dwt-cache``: prepared corpora, teachers and scores. Imports no torch."""

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

from dwt_cli.base import atomic, cache, locks
from dwt_cli.base.atomic import read_json
from dwt_cli.cli.tables import console, table
from dwt_cli.track.metrics import newest

_DAY_S = 86_400.0
_NO_ANSWER = 2  # the exit code when nobody can be asked whether to delete


@dataclass(frozen=True)
class Entry:
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


def entries_of(root: Path) -> list[Entry]:
    """Return everything in a cache, by kind, the least recently used first."""
    found = [
        _entry(folder, *name.groups())
        for folder in root.glob("*/*")
        if (name := re.fullmatch(r"([0-9a-f]{16})(\.\w+)?", folder.name)) and folder.is_dir()
    ]
    return sorted(found, key=lambda entry: (entry.kind, entry.used))


def _entry(folder: Path, fingerprint: str, suffix: str | None) -> Entry:
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    state = "whole" if atomic.is_sealed(folder) and suffix is None else "unfinished"
    if suffix == cache.DAMAGED:
        state = "damaged"
    elif suffix == cache.PARTIAL and locks.is_held(folder.with_name(fingerprint + cache.LOCK)):
        state = "being made"
    used = folder.stat().st_mtime
    return Entry(
        folder,
        folder.parent.name,
        fingerprint,
        state,
        sum(file.st_size for file in files),
        used if state == "whole" else max([used, *(file.st_mtime for file in files)]),
        _what(folder),
    )


def _what(folder: Path) -> str:
    """Return what made an artifact, in a few words."""
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


def clean(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str | None]]:
    """Delete entries; yields each with None, or with the holder of its lock, and then it stays."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """List, size or clean the prepared corpora and teachers: ``dwt-cache``."""
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
    entries = entries_of(root)
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


def _list(entries: list[Entry]) -> None:
    rows = table("kind", "fingerprint", "state", ">size", "last used", "what")
    for entry in entries:
        used = f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}"
        rows.add_row(entry.kind, entry.fingerprint, entry.state, _size([entry]), used, entry.what)
    console().print(rows)


def _clean(entries: list[Entry], older_than: float | None, agreed: bool) -> int:
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
            print(f"{question}\nnothing is deleted: there is no terminal; give --yes")
            return _NO_ANSWER
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


def _size(entries: Iterable[Entry]) -> str:
    size = sum(entry.size for entry in entries)
    for unit, bytes_per in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_per:
            return f"{size / bytes_per:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
