"""``python -m tests.faults``: what breaks off, by machine, with a table at its end."""

import argparse
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dwt_cli.base.machine import commit
from tests.faults import damage, hung, kills, long, planted, trials, valid
from tests.faults.harms import HARMS


class Fault(NamedTuple):
    """A sub-command: what it yields for a number, and the table of that."""

    help: str
    number: int
    answers: Callable[[int, Path], Iterator[Any]]
    table: Callable[[Sequence[Any]], str]


FAULTS = {
    **{
        name: Fault(str(harm.__doc__), 100, partial(kills.answers, harm=harm), kills.table)
        for name, harm in HARMS.items()
    },
    "damage": Fault("Every file is cut, flipped, emptied.", 999, damage.answers, trials.table),
    "hung": Fault("Servers of others that hang.", 3, hung.answers, trials.table),
    "long": Fault("Memory, files, threads of many steps.", 20_000, long.answers, trials.table),
    "valid": Fault("Random commands that are right.", 200, valid.answers, valid.table),
    "planted": Fault("What is no number, so often each.", 5, planted.answers, trials.table),
}


def main() -> int:
    """Do it, and print the table; return 1 if something is wrong."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    for name, fault in FAULTS.items():
        asked = commands.add_parser(name, help=fault.help)
        asked.add_argument("number", type=int, nargs="?", default=fault.number)
        asked.add_argument("--into", type=Path, default=Path("runs/faults"), help="for answers")
    typed = parser.parse_args()
    typed.into.mkdir(parents=True, exist_ok=True)
    fault, begun, found = FAULTS[typed.what], time.monotonic(), list[Any]()
    for each in fault.answers(typed.number, typed.into):
        found.append(each)
        print(f"{len(found)}, {time.monotonic() - begun:.0f} s: {each.line}", flush=True)
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("torch", "transformers"))
    print(f"\n{fault.table(found)}\n")
    print(
        f"commit {commit()}, {platform.machine()}, Python {platform.python_version()}, {versions}"
    )
    return any(each.wrong for each in found)


if __name__ == "__main__":
    sys.exit(main())
