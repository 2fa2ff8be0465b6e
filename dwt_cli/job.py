"""One run of a multirun, in a process of its own: ``python -m dwt_cli.job run.json``."""

import ctypes
import platform
import signal
import sys
import traceback
from pathlib import Path

from dwt_cli import mistakes, parcel
from dwt_cli.errors import Told
from dwt_cli.launch import launch
from dwt_cli.training import interrupt


def main() -> None:
    """Carry out the run that is packed in a file, as the front door would have."""
    _stop_with_the_parent()
    run = parcel.unpacked(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        with interrupt.stoppable():
            launch(run)
    except KeyboardInterrupt as stop:
        sys.exit(interrupt.leave(stop, "dwt-train", run.overrides))
    except Told as told:
        sys.exit(told.code)
    except Exception as error:
        if line := mistakes.answer(error):
            sys.exit(f"dwt-train: {line}")
        traceback.print_exc()
        sys.exit(1)


def _stop_with_the_parent() -> None:
    """A multirun that is killed leaves no run at work, but a checkpoint (Linux only)."""
    if platform.system() == "Linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


if __name__ == "__main__":
    main()
