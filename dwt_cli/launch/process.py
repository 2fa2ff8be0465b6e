"""A process that is handed a packed run: one rank of it, a node's launcher, or a multirun's job."""

import ctypes
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from dwt_cli.base import interrupt
from dwt_cli.base.errors import Told
from dwt_cli.config import explain, packing
from dwt_cli.config.run import Run

MISTAKE, FAULT = 2, 1
"""Exit codes of a process that has told what went wrong, in a line or by a traceback."""

QUIETLY = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""In the environment of those who start ranks: that others have gone is said in one line."""


def carry_out(work: Callable[[Run], None], at_parents_end: int = signal.SIGKILL) -> None:
    """Do ``work`` on the run that is packed in the file of the command line, and leave.

    at_parents_end: the signal with which this process ends when its parent is gone (Linux only).
    """
    if platform.system() == "Linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, at_parents_end)
    run = packing.unpacked(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        with interrupt.stoppable():
            work(run)
    except Told as told:
        sys.exit(told.code)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(getattr(stop, "said", None) or stop, file=sys.stderr, flush=True)
        sys.exit(128 + getattr(stop, "number", int(signal.SIGINT)))
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # those that fall silent are sooner gone
        line = explain.answer(error)
        if line is None:
            traceback.print_exc()
            sys.exit(FAULT)
        print(f"dwt-train: {line}", file=sys.stderr, flush=True)
        sys.exit(MISTAKE)
