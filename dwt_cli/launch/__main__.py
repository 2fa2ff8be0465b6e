"""``python -m dwt_cli.launch rank|job|node FILE``: a process for the run that is packed in a file.

rank: one of its processes, started by torchrun. job: all of it, as one run of a multirun. node: the
launcher of one node's ranks, in a job of SLURM.
"""

import signal
import sys
from pathlib import Path

from dwt_cli.config import packing
from dwt_cli.launch.process import handed_over

if __name__ == "__main__":
    role, file = sys.argv[1:]
    # when a multirun is killed, its jobs leave checkpoints
    at_parents_end = signal.SIGTERM if role == "job" else signal.SIGKILL
    with handed_over(Path(file), at_parents_end) as run:
        if role == "rank":
            from rich.console import Console

            from dwt_cli.recipe import worker

            worker.work(run, Console())
        elif role == "job":
            from dwt_cli.launch import dispatch

            dispatch.start(run)
        else:
            from dwt_cli.launch import torchrun

            assert run.launch.ranks is not None
            torchrun.start(packing.packed(run), run.launch.ranks)
