"""Many runs, each a process of its own: one after the other, or several at a time.

A process that ends badly costs the others nothing. What it prints goes to a file, whose last line
is the error that it ended with.
"""

import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from dwt_cli.base.errors import UserError
from dwt_cli.config.launch import Jobs
from dwt_cli.config.run import Run
from dwt_cli.launch.start import Begin, Child

_POLL_S = 0.02
_NEWS = 25  # polls between two looks at how far the runs at work have come


class News(NamedTuple):
    """State of the run packed in ``file``; error: the line that it failed with."""

    file: Path
    state: Literal["finished", "failed", "running"]
    error: str | None = None


def check(run: Run) -> None:
    """Raise `UserError` where runs as this one are handed to SLURM, and cannot be."""
    if run.jobs.needs_slurm and not run.launch.job:
        raise UserError("jobs=submitit: runs are handed to SLURM with launch=slurm; choose it too")


def carry_out(files: Sequence[Path], options: Jobs, begin: Begin) -> Iterator[News]:
    """Yield what becomes of each packed run, and now and then that it is at work.

    As many are at work at a time as the options ask for, each with its share of the machine and a
    ``.log`` of its output. When the caller stops iterating, they are asked to write a checkpoint,
    and waited for; a second Ctrl-C leaves them to it.
    """
    size, waiting = options.at_a_time(torch.cuda.device_count()), list(files)
    at_work: dict[int, tuple[Path, Child]] = {}  # by their place, from 0
    try:
        for poll in itertools.count():
            for place in range(size):
                if place in at_work:
                    file, process = at_work[place]
                    code = process.poll()
                    if code is None:
                        if poll % _NEWS == 0:
                            yield News(file, "running")
                        continue
                    del at_work[place]
                    error = _error(code, file.with_suffix(".log"))
                    if error and options.fail_fast:
                        waiting.clear()
                    yield News(file, "failed" if error else "finished", error)
                if waiting:
                    file = waiting.pop(0)
                    share = _share(place, size) if options.shares_machine else {}
                    log = file.with_suffix(".log")
                    at_work[place] = file, begin("job", file, os.environ | share, log)
            if not at_work:
                return
            time.sleep(_POLL_S)
    finally:
        left = [process for _, process in at_work.values() if process.poll() is None]
        for process in left:
            os.kill(process.pid, signal.SIGINT)
        while any(process.poll() is None for process in left):
            time.sleep(_POLL_S)


def _share(place: int, size: int) -> dict[str, str]:
    """Return the environment with one of the machine's devices and a share of its cores."""
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // size))}
    if num_devices := torch.cuda.device_count():
        every = ",".join(map(str, range(num_devices)))
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",")
        share["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    return share


def _error(code: int | None, log: Path) -> str | None:
    """Return the last line that a process has printed, unless it ended well."""
    if not code:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return lines[-1].removeprefix("dwt-train: ") if lines else "it has printed nothing"
