"""One run of a multirun, in a process of its own: ``python -m dwt_cli.launch.job run.json``."""

import signal

from dwt_cli.launch.dispatch import launch
from dwt_cli.launch.process import carry_out


def main() -> None:
    """Carry out the run that is packed in a file, as the front door would have."""
    carry_out(launch, signal.SIGTERM)  # when the multirun is killed a checkpoint is left


if __name__ == "__main__":
    main()
