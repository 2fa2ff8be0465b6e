"""Processes for checked settings: how many, and where. Imports no torch itself."""

import os
from pathlib import Path

from rich.console import Console

from dwt_cli.config import packing
from dwt_cli.config.launch import Torchrun
from dwt_cli.config.run import Run
from dwt_cli.launch.process import QUIETLY, loading
from dwt_cli.launch.start import starter
from dwt_cli.recipe.record import readable


def start(run: Run) -> None:
    """Carry a run or an evaluation out: in this process, in several that begin here, or in a job.

    Raises what `dwt_cli.recipe.worker.work` and `dwt_cli.recipe.worker.evaluate` raise, and
    `dwt_cli.base.errors.Reported`.
    """
    evaluation, ranks, job = run.evaluation, run.launch.ranks, run.launch.job
    is_rank = {"RANK", "WORLD_SIZE"} <= os.environ.keys()  # somebody else's torchrun
    begins_here = run.run.mode.trains and evaluation is None and not is_rank
    console = Console()
    if begins_here:
        from dwt_cli.recipe import finished  # a command that only asks for help does not pay for it

        if finished.show_again(run, console):
            return
    if job and begins_here:
        from dwt_cli.launch import slurm

        name = readable(run.choices, run.overrides, run.seed)
        slurm.start(packing.packed(run), name, Path(run.run.root), job)
        return
    if ranks:
        os.environ.update(QUIETLY | os.environ)
    if ranks and begins_here:
        start_ranks(packing.packed(run), ranks)
        return
    with loading():
        from dwt_cli.recipe import worker
    if evaluation:
        worker.evaluate(evaluation, console)
    else:
        worker.work(run, console)


def start_ranks(packed: str, options: Torchrun) -> None:
    """Carry a packed run out by the ranks of this machine, which begin here."""
    with starter() as begin:
        with loading():
            from dwt_cli.launch import torchrun
        torchrun.start(packed, options, begin)
