"""One of several processes of a run: torchrun starts ``python -m dwt_cli.rank run.json``."""

import ctypes
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from dwt_cli import mistakes, parcel, worker
from dwt_cli.config import Run
from dwt_cli.errors import Told
from dwt_cli.training import interrupt

MISTAKE, FAULT = 2, 1
"""Exit codes of a rank that has told what went wrong, in a line or by a traceback."""


def main() -> None:
    """Take part in the run that is packed in a file; what goes wrong is told by one rank."""
    carry_out(lambda run: worker.work(run, Console()))


def carry_out(work: Callable[[Run], None]) -> None:
    """Do ``work`` on the run that is packed in the file of the command line, and leave."""
    _end_with_the_parent()
    run = parcel.unpacked(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        with interrupt.stoppable():
            work(run)
    except Told as told:
        sys.exit(told.code)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(stop, file=sys.stderr, flush=True)
        sys.exit(128 + getattr(stop, "number", int(signal.SIGINT)))
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # those that fall silent are sooner gone
        line = mistakes.answer(error)
        if line is None:
            traceback.print_exc()
            sys.exit(FAULT)
        print(f"dwt-train: {line}", file=sys.stderr, flush=True)
        sys.exit(MISTAKE)


def _end_with_the_parent() -> None:
    """A launcher that is killed leaves no ranks behind (Linux only)."""
    if platform.system() == "Linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    main()
