"""One of several processes of a run: torchrun starts ``python -m dwt_cli.launch.rank run.json``."""

from rich.console import Console

from dwt_cli.launch.process import carry_out
from dwt_cli.recipe import worker


def main() -> None:
    """Take part in the run that is packed in a file; what goes wrong is told by one rank."""
    carry_out(lambda run: worker.work(run, Console()))


if __name__ == "__main__":
    main()
