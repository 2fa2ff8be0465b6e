"""Whether this tree computes what another commit does, bit for bit, on this machine.

``python -m tests.golden.bits --against COMMIT`` trains every miniature in both trees, in one
environment with one thread, and compares the tensors of the final model and all numbers of
metrics.jsonl but timings; with ``--identities`` what the runs are found by, too. A line for each,
and exit code 1 if one differs. Of the package it uses the command line and the run's directory.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from tests.golden import miniatures

HERE = Path(__file__).parents[2]
_TIMINGS = {"train/tokens_per_s", "train/elapsed_s"}


@dataclass
class Result:
    """What came of a run: its metrics, the sum of each tensor, and its identity."""

    metrics: list[dict[str, Any]]
    tensors: dict[str, str]
    identity: str


def export(commit: str, folder: Path) -> Path:
    """Write a commit's tree to a folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=HERE, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


def train(tree: Path, place: Path, kept: str, compositions: dict[str, list[str]]) -> dict[str, str]:
    """Train compositions with a tree's code; return the last line of those that fail.

    place: the folder of text and model. kept: where below it the runs are.
    """
    folder = place / kept
    folder.mkdir(exist_ok=True)
    commands = {name: miniatures.command(name, words, kept) for name, words in compositions.items()}
    file = folder / "commands.json"
    file.write_text(json.dumps(commands), encoding="utf-8")
    environment = {name: v for name, v in os.environ.items() if not name.startswith("DWT_")}
    environment |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    forks = Path(__file__).with_name("forks.py")
    done = subprocess.run(
        [sys.executable, "-P", forks, tree, file],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    codes = json.loads(done.stdout)
    return {name: _last_line(folder / f"{name}.log") for name, code in codes.items() if code}


def _last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["-"])[-1]


def read(root: Path) -> Result:
    """Read the one run below a folder."""
    (summary,) = root.glob("*/summary.json")
    run = summary.parent
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [{k: v for k, v in json.loads(s).items() if k not in _TIMINGS} for s in lines]
    with safe_open(run / "model" / "model.safetensors", "np") as file:
        tensors = {
            name: hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest()
            for name in sorted(file.keys())
        }
    return Result(metrics, tensors, json.loads(summary.read_text(encoding="utf-8"))["identity"])


def difference(old: Result, new: Result) -> str | None:
    """Say where two results differ first; None if they are equal."""
    for before, after in zip(old.metrics, new.metrics, strict=False):
        for name in before | after:
            if (was := before.get(name)) != (now := after.get(name)):
                return f"step {before['step']}, {name}: {was} was, {now} is"
    if len(old.metrics) != len(new.metrics):
        return f"metrics.jsonl: {len(old.metrics)} lines were, {len(new.metrics)} are"
    for name in old.tensors | new.tensors:
        if old.tensors.get(name) != new.tensors.get(name):
            return f"tensor {name}"
    return None


def compare(commit: str, place: Path, identities: bool, only: str) -> bool:
    """Train in both trees and print what differs; return whether nothing does.

    only: what the names of the miniatures contain.
    """
    started = time.perf_counter()
    miniatures.prepare(place)
    trees = {"old": export(commit, place / "tree"), "new": HERE}
    first = {"start": ["teacher=none", "scale.max_steps=2"]}
    if failed := train(trees["old"], place, "start", first):
        raise SystemExit(f"{commit}: {failed}")
    (model,) = (place / miniatures.place("start", "start")).glob("*/model")
    shutil.copytree(model, place / "model")
    kinds = (miniatures.TOGETHER, miniatures.ALONE, miniatures.TAUGHT, miniatures.OPENED)
    every = {name: words for kind in kinds for name, words in kind.items() if only in name}
    broken = {kept: train(tree, place, kept, every) for kept, tree in trees.items()}
    num_equal = 0
    for name in every:
        said = [f"{kept} tree failed: {lines[name]}" for kept, lines in broken.items()
                if name in lines]  # fmt: skip
        if not said:
            old, new = (read(place / miniatures.place(kept, name)) for kept in trees)
            said = [found] if (found := difference(old, new)) else []
            if identities and old.identity != new.identity:
                said.append(f"identity: {old.identity} was, {new.identity} is")
        num_equal += not said
        print(f"{'differs' if said else 'equal  '} {name}{': ' * bool(said)}{'; '.join(said)}")
    seconds = time.perf_counter() - started
    print(f"{num_equal} of {len(every)} equal {commit}, {seconds:.0f} s")
    return num_equal == len(every)


def main() -> None:
    """Read the command line; exit with 1 if a result differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default="2c6f4f7", metavar="COMMIT")
    parser.add_argument("--identities", action="store_true", help="compare them too")
    parser.add_argument("--only", default="", metavar="WORD", help="miniatures with this in them")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="dwt-bits-") as folder:
        sys.exit(not compare(options.against, Path(folder), options.identities, options.only))


if __name__ == "__main__":
    main()
