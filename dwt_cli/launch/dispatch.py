"""From checked settings to processes: how many, and where. Imports no torch itself."""

import os
from collections.abc import Sequence

from rich.console import Console

from dwt_cli.config.launch import Slurm, Torchrun
from dwt_cli.config.run import Evaluation, Run
from dwt_cli.launch.process import QUIETLY


def launch(run: Run) -> None:
    """Carry a run or an evaluation out: in this process, in several that begin here, or in a job.

    Raises what `dwt_cli.recipe.worker.work` and `dwt_cli.recipe.worker.evaluate` raise, and
    `dwt_cli.base.errors.Told`.
    """
    stays = run.run.only_looks or isinstance(run, Evaluation)
    if isinstance(run.launch, Slurm) and not stays:
        from dwt_cli.launch import slurm  # a command that only asks for help does not pay for it

        slurm.launch(run, run.launch)
        return
    if isinstance(run.launch, Torchrun):
        os.environ.update(QUIETLY | os.environ)
    console = Console()
    with console.status("loading torch and transformers"):
        # nor for these
        from dwt_cli.base.ranks import are_several
        from dwt_cli.launch import torchrun
        from dwt_cli.recipe import worker
    if isinstance(run, Evaluation):
        worker.evaluate(run, console)
    elif isinstance(run.launch, Torchrun) and not are_several() and not stays:
        torchrun.launch(run, run.launch)
    else:
        worker.work(run, console)


def carry_out(runs: Sequence[Run], study: str | None, arguments: Sequence[str]) -> int:
    """Carry the runs of a multirun out, each in processes of its own; the exit code.

    study: the name of its primary config. arguments: the command that asks for them.
    """
    console = Console()
    with console.status("loading torch and transformers"):
        from dwt_cli.launch import sweep
    return sweep.carry_out(runs, study, arguments, console)
