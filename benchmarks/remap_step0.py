"""What is a student worth before its first step? Every way to start from a teacher, on one table.

For each choice of `remap/`, from a teacher of the student's width and from one of half its width,
`dwt-train` runs one step, as a user would run it; the losses are those that it writes to
remap.json: held-out, in nats per masked token, of the teacher, of the student as it was
initialised, and of the remapped student. Rules for depth alone are joined by net2net where the
teacher is narrower.

How to read it: a low loss before the first step is a head start, not a better end: what differs
after training is another question. Runs that are finished are found again: the same command goes
on where it stopped.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equal_compute import Command
from provenance import provenance
from timing import SMOKE, table

_OPERATORS = (
    "embeddings",
    "paper",
    "stack",
    "interpolate",
    "zero_init",
    "net2net",
    "aki",
    "tile",
    "lemon",
    "ligo",
)
_DEPTH_ALONE = ("paper", "stack", "interpolate", "zero_init")
_WIDTH = ("net2net", "aki", "tile", "lemon")
# half the width of scale=nano, with heads of the same size
_HALF = ("teacher.width=64", "teacher.num_heads=1", "teacher.mlp_width=128")
_QUICK = (
    "scale.width=32",
    "scale.mlp_width=64",
    "scale.teacher_steps=4",
    "train.batch_size=8",
    "eval.num_blocks=8",
)
_QUICK_HALF = ("teacher.width=16", "teacher.num_heads=1", "teacher.mlp_width=32")

Start = dict[str, Any]


def starts(command: Command, seed: int, half: tuple[str, ...]) -> dict[str, Start]:
    """The losses of each operator. half: what makes the teacher narrower; empty: it is not."""
    found = {}
    for operator in _OPERATORS:
        if operator in _WIDTH and not half:
            continue  # at the student's own width there is nothing to widen
        more = ("remap.width=net2net",) if half and operator in _DEPTH_ALONE else ()
        summary = command(seed, "teacher=small", *half, f"remap={operator}", *more)
        found[operator] = summary["student"]["remap"]["losses"]
    return found


def rows(*teachers: dict[str, Start]) -> Iterator[list[str]]:
    """One for the teachers, one for a random student, one for each operator."""
    for name in ("teacher", "random"):
        yield [name, *(f"{next(iter(found.values()))[name]:.4f}" for found in teachers)]
    for operator in _OPERATORS:
        losses = [found.get(operator, {}).get("remapped") for found in teachers]
        yield [operator, *("" if loss is None else f"{loss:.4f}" for loss in losses)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--overrides",
        nargs="*",
        default=[],
        metavar="OVERRIDE",
        help="as for dwt-train, the same for every run, e.g. scale.teacher_steps=800",
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="run.root of every run")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke test: tiny runs in a folder that is thrown away",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) if options.quick else options.root
        quick = _QUICK if options.quick else ()
        command = Command(root.absolute(), (*quick, "train.max_steps=1", *options.overrides))
        where = provenance()
        alike = starts(command, options.seed, ())
        narrow = starts(command, options.seed, _QUICK_HALF if options.quick else _HALF)
    headings = ["start", "teacher of the student's width", "teacher of half its width"]
    lines = ["# Before the first step", "", *where, "", *table(headings, [*rows(alike, narrow)])]
    print("\n".join([*lines, *(["", SMOKE] if options.quick else [])]))


if __name__ == "__main__":
    main()
