"""``python -m dwt_cli.launch rank|job|node FILE``: a process for the run that is packed in a file.

rank: one of its processes, started by torchrun. job: all of it, as one run of a multirun. node: the
launcher of one node's ranks, in a job of SLURM.
"""

import signal
import sys
from pathlib import Path

from dwt_cli.config.run import Run
from dwt_cli.launch.process import carry_out


def _rank(run: Run) -> None:
    from rich.console import Console

    from dwt_cli.recipe import worker

    worker.work(run, Console())


def _job(run: Run) -> None:
    from dwt_cli.launch import dispatch

    dispatch.start(run)


def _node(run: Run) -> None:
    from dwt_cli.launch import torchrun

    assert run.launch.ranks is not None
    torchrun.start(run, run.launch.ranks)


if __name__ == "__main__":
    role, file = sys.argv[1:]
    # when a multirun is killed, its jobs leave checkpoints
    at_parents_end = signal.SIGTERM if role == "job" else signal.SIGKILL
    carry_out({"rank": _rank, "job": _job, "node": _node}[role], Path(file), at_parents_end)
