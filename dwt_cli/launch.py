"""From checked settings to processes: how many, and where. Imports no torch itself."""

from rich.console import Console

from dwt_cli.config import Evaluation, Run


def launch(run: Run) -> None:
    """Carry a run or an evaluation out: one process, this one.

    Raises what `dwt_cli.worker.work` and `dwt_cli.evaluation.evaluate` raise.
    """
    console = Console()
    with console.status("loading torch and transformers"):
        # a command that only asks for help does not pay for it
        from dwt_cli import evaluation, worker
    if isinstance(run, Evaluation):
        evaluation.evaluate(run, console)
    else:
        worker.work(run, console)
