"""From a checked run to processes: how many, and where. Imports no torch itself."""

from rich.console import Console

from dwt_cli.config import Run


def launch(run: Run) -> None:
    """Carry a run out: one process, this one.

    Raises what `dwt_cli.worker.work` raises.
    """
    console = Console()
    with console.status("loading torch and transformers"):
        from dwt_cli import worker  # a command that only asks for help does not pay for it
    worker.work(run, console)
