"""From checked settings to processes: how many, and where. Imports no torch itself."""

from rich.console import Console

from dwt_cli.config import Evaluation, Run, Slurm, Torchrun


def launch(run: Run) -> None:
    """Carry a run or an evaluation out: in this process, in several that begin here, or in a job.

    Raises what `dwt_cli.worker.work` and `dwt_cli.evaluation.evaluate` raise, and
    `dwt_cli.errors.Told`.
    """
    console = Console()
    with console.status("loading torch and transformers"):
        # a command that only asks for help does not pay for it
        from dwt_cli import evaluation, slurm, torchrun, worker
        from dwt_cli.ranks import are_several
    looks_only = run.run.export or run.run.schedule or run.run.plan
    if isinstance(run, Evaluation):
        evaluation.evaluate(run, console)
    elif looks_only or are_several() or not isinstance(run.launch, Torchrun):
        worker.work(run, console)
    elif isinstance(run.launch, Slurm):
        slurm.launch(run, run.launch)
    else:
        torchrun.launch(run, run.launch)
