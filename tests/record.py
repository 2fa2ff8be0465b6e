"""A run that is carried out in this process, and what it leaves behind."""

import io
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from dwt_cli.config import check
from dwt_cli.config.run import Run
from dwt_cli.recipe import worker
from dwt_cli.track.metrics import read_lines

TIMINGS = {"train/tokens_per_s", "train/elapsed_s"}


class Done(NamedTuple):
    """The folder of a run, and what was printed."""

    folder: Path
    printed: str


def carry_out(run: Run) -> Done:
    """Check a run and carry it out."""
    check.check(run)
    file = io.StringIO()
    worker.work(run, Console(file=file, width=400))
    return Done(folder_of(file.getvalue()), file.getvalue())


def folder_of(printed: str) -> Path:
    """Return the folder that the one run of an output names."""
    (line,) = (line for line in printed.splitlines() if line.startswith("record: "))
    return Path(line.removeprefix("record: "))


def metrics(folder: Path) -> list[dict[str, float]]:
    """The whole lines of a run's metrics.jsonl, without what a clock has measured."""
    lines = read_lines(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]
