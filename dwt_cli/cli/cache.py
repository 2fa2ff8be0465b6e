"""``dwt-cache``: prepared corpora, teachers and scores. Imports no torch."""

import argparse
import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.filesize import decimal

from dwt_cli.base import atomic, cache, locks
from dwt_cli.base.atomic import read_json
from dwt_cli.base.errors import MISTAKE
from dwt_cli.cli.tables import print_table
from dwt_cli.track.metrics import newest

_DAY_S = 86_400.0


@dataclass(frozen=True)
class Entry:
    """A folder of the cache.

    state: whole | being made | unfinished (its maker was stopped and may go on) | damaged (set
    aside, never used again). used: when it was opened or written to, in seconds since 1970.
    """

    folder: Path
    state: str
    size: int
    used: float

    @property
    def kind(self) -> str:
        return self.folder.parent.name


def entries_of(root: Path) -> list[Entry]:
    """Return everything in a cache, by kind, the least recently used first."""
    found = []
    for folder in (*root.glob("*/*"), *root.glob("compiled/headers/*")):
        if not re.fullmatch(r"[0-9a-f]{16}(\.\w+)?", folder.name) or not folder.is_dir():
            continue
        files = [path.stat() for path in folder.rglob("*") if path.is_file()]
        used, state = folder.stat().st_mtime, "whole"
        if folder.suffix or not atomic.is_sealed(folder):
            used, state = max([used, *(file.st_mtime for file in files)]), "unfinished"
        if folder.parent.name == "headers":  # of compiled code, without a manifest
            state = "whole"
        if folder.suffix == cache.DAMAGED:
            state = "damaged"
        elif folder.suffix == cache.PARTIAL and locks.is_held(folder.with_suffix(cache.LOCK)):
            state = "being made"
        found.append(Entry(folder, state, sum(file.st_size for file in files), used))
    return sorted(found, key=lambda entry: (entry.kind, entry.used))


_OPTIONS = {
    "path": "{}",
    "name": "{}",
    "block_length": "blocks of {}",
    "num_layers": "{} layers",
    "width": "{} wide",
    "max_steps": "{} steps",
    "num_entries": "{} entries a row",
    "seed": "seed {}",
}
"""What is said of an artifact's options, where it has them."""


def _what(folder: Path) -> str:
    """Return what made an artifact, in a few words."""
    options = (read_json(folder / cache.ABOUT) or {}).get("options", {})
    report, facts = read_json(folder / "report.json"), read_json(folder / "facts.json")
    words = [part["dataset"] for part in options.get("parts", ())]
    words += options.get("packages", ())
    words += [text.format(options[name]) for name, text in _OPTIONS.items() if options.get(name)]
    if report:
        words += [f"{report['train_tokens']:,} tokens", f"vocabulary {report['vocabulary']:,}"]
    if facts:
        words.append(f"held-out {facts['heldout']['loss']:.3f}")
    step, _, _ = newest(folder / "metrics.jsonl")
    if step is not None and not facts:
        words.append(f"after step {step}")
    return ", ".join(words)


def main(arguments: Sequence[str] | None = None) -> int:
    """List, size or clean the prepared corpora and teachers: ``dwt-cache``."""
    parser = argparse.ArgumentParser(
        "dwt-cache", description="List, size and clean prepared corpora and teachers."
    )
    parser.add_argument("action", nargs="?", choices=["list", "size", "clean"], default="list")
    parser.add_argument("--cache", metavar="DIR", help="as run.cache (the user's cache folder)")
    parser.add_argument(
        "--older-than",
        type=float,
        default=math.inf,
        metavar="DAYS",
        help="clean: also what was last used so long ago; without it only leftovers",
    )
    parser.add_argument("--yes", action="store_true", help="clean: do not ask")
    options = parser.parse_args(arguments)
    if not options.older_than >= 0:
        parser.error(f"--older-than {options.older_than}: give a number of days, 0 or more")
    root = cache.Cache(options.cache, print).root
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
    rows = []
    for each in entries:
        used = f"{datetime.fromtimestamp(each.used):%Y-%m-%d %H:%M}"
        size, what = decimal(each.size), _what(each.folder)
        rows.append((each.kind, each.folder.stem, each.state, size, used, what))
    print_table(("~kind", "fingerprint", "~state", ">size", "last used", "~what"), rows)


def _clean(entries: list[Entry], older_than: float, agreed: bool) -> int:
    before = time.time() - older_than * _DAY_S
    leftover = ("unfinished", "damaged")
    chosen = [each for each in entries if each.state in leftover or each.used <= before]
    if not chosen:
        print("nothing to clean")
        return 0
    _list(chosen)
    if not agreed:
        question = f"delete {len(chosen)} folders, {_size(chosen)}? [y/N] "
        if not sys.stdin.isatty():
            print(f"{question}\nnothing is deleted: there is no terminal; give --yes")
            return MISTAKE
        if input(question).strip().lower() not in ("y", "yes"):
            print("nothing is deleted")
            return 0
    freed = []
    for entry in chosen:
        try:
            with locks.take(entry.folder.with_suffix(cache.LOCK)):
                if entry.folder.exists():
                    (entry.folder / atomic.MANIFEST).unlink(missing_ok=True)  # no longer counts
                    shutil.rmtree(entry.folder)
        except locks.Held as holder:
            print(f"{entry.kind}/{entry.folder.name} stays: {holder} is at work on it")
        else:
            freed.append(entry)
    print(f"{_size(freed)} freed")
    return 0


def _size(entries: Iterable[Entry]) -> str:
    return decimal(sum(entry.size for entry in entries))
