"""``python -m tests.faults``: what breaks off, by machine, with a table at its end."""

import argparse
import importlib.metadata
import inspect
import platform
import sys
import time
from pathlib import Path

from dwt_cli.base.machine import commit
from tests.faults import kills
from tests.faults.harms import HARMS


def main() -> int:
    """Kill, and print the table; return 1 if something is different."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=kills.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="what", required=True)
    for name, harm in HARMS.items():
        asked = commands.add_parser(name, help=inspect.getdoc(harm))
        asked.add_argument("number", type=int, nargs="?", default=100)
        asked.add_argument("--into", type=Path, default=Path("runs/faults"), help="for answers")
    typed = parser.parse_args()
    typed.into.mkdir(parents=True, exist_ok=True)
    begun, found = time.monotonic(), list[kills.Kill]()
    for each in kills.answers(typed.number, typed.into, harm=HARMS[typed.what]):
        found.append(each)
        left = (time.monotonic() - begun) / len(found) * (typed.number - len(found))
        print(
            f"{len(found)} of {typed.number}, ETA {left / 60:.0f} min: {each.phase}, "
            f"{each.moment_s:.2f} s, {'at work' if each.died else 'had ended'}: "
            f"{each.said or 'killed'}: "
            f"{each.different or 'no difference'}",
            flush=True,
        )
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("torch", "transformers"))
    print(f"\n{kills.table(found)}\n")
    print(
        f"commit {commit()}, {platform.machine()}, Python {platform.python_version()}, {versions}"
    )
    return any(each.different for each in found)


if __name__ == "__main__":
    sys.exit(main())
