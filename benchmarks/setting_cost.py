"""What does a setting add to a step? Short runs of `dwt-train`, as a user starts them, in turn.

Each ``--arm`` is a few words of `dwt-train`, as in ``--arm "objective=[logits,masked_hidden]"``;
the first is what the others are compared with. A round is a run of each, with a seed of its own;
its figure is the mean step from step ``--from`` on, without evaluations and checkpoints, so that
what a setting does every so many steps is in it. Ratios are taken round by round. Teachers are
trained once.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from equal_compute import Command
from provenance import provenance
from timing import SMOKE, ratios, spread, table

from dwt_cli.track.metrics import read_lines

_QUICK = (
    "scale.width=32",
    "scale.mlp_width=64",
    "scale.teacher_steps=2",
    "scale.max_steps=12",
    "train.batch_size=8",
    "eval.num_blocks=8",
)  # its figures mean nothing


def milliseconds(command: Command, arm: str, seed: int, first: int) -> float:
    """Return the mean step of a run after step ``first``; it is started unless it is finished."""
    summary = command(seed, *arm.split(), "train.log_every=1")
    (record,) = command.root.glob(f"*{summary['identity']}")
    steps = [
        line["train/tokens"] / line["step"] / line["train/tokens_per_s"]
        for line in read_lines(record / "metrics.jsonl")
        if "train/tokens_per_s" in line
    ]
    if len(steps) <= first:
        sys.exit(f"--from {first} leaves none of {len(steps)} steps: give a smaller one")
    return 1e3 * statistics.mean(steps[first:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", action="append", required=True, help="words of dwt-train")
    parser.add_argument("--overrides", nargs="*", default=[], help="words that all arms share")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--from", dest="first", type=int, default=10, help="steps left out")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, 2 rounds")
    options = parser.parse_args()
    rounds, first = (2, 1) if options.quick else (options.rounds, options.first)
    overrides = (*(_QUICK if options.quick else ()), *options.overrides)
    where = provenance()
    with tempfile.TemporaryDirectory() as folder:
        command = Command(Path(folder), overrides)
        spent: dict[str, list[float]] = {arm: [] for arm in options.arm}
        for seed in range(rounds):
            for arm in options.arm:
                spent[arm].append(milliseconds(command, arm, seed, first))
    before = spent[options.arm[0]]
    rows = [
        [f"`{arm}`", spread(each, 1), spread(ratios(each, before), 3)]
        for arm, each in spent.items()
    ]
    head = ["setting", "ms a step: median (min .. max)", "over the first"]
    lines = ["# What a setting adds to a step", "", *where, f"- rounds: {rounds} in turn", ""]
    print("\n".join([*lines, *table(head, rows), "", SMOKE if options.quick else ""]).rstrip())


if __name__ == "__main__":
    main()
