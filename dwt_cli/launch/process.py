"""The life of a process that is handed a packed run: its signals, its last line, its exit code."""

import contextlib
import ctypes
import gc
import platform
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from dwt_cli.base import interrupt
from dwt_cli.base.errors import FAULT, MISTAKE, Reported
from dwt_cli.config import explain, packing

QUIETLY = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Environment of those who start ranks: that other ranks have ended is reported in one line."""


@contextlib.contextmanager
def loading(is_shown: bool = True) -> Iterator[None]:
    """Load modules in here: all of them stay, so the garbage collector need not look at them."""
    gc.disable()
    with Console(quiet=not is_shown).status("loading torch and transformers"):
        yield
    gc.freeze()
    gc.enable()


def main(role: str, file: Path) -> None:
    """Do the work of a process in its role, on the run that is packed in a file.

    rank: one of the run's processes. job: all of it, as one run of a multirun. node: the launcher
    of one node's ranks, in a job of SLURM. Exits where the work does not end well, and (on Linux)
    with its parent.
    """
    if platform.system() == "Linux":
        pr_set_pdeathsig = 1
        # when a multirun is killed, its jobs leave checkpoints
        at_parents_end = signal.SIGTERM if role == "job" else signal.SIGKILL
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, at_parents_end)
    try:
        with interrupt.stoppable():
            run = packing.unpacked(file.read_text(encoding="utf-8"))
            if role == "rank":
                from dwt_cli.recipe import worker

                worker.work(run, Console())
                return
            from dwt_cli.launch import dispatch

            if role == "job":
                dispatch.start(run)
            else:
                assert run.launch.ranks is not None
                dispatch.start_ranks(packing.packed(run), run.launch.ranks)
    except Reported as error:
        sys.exit(error.code)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(getattr(stop, "message", None) or stop, file=sys.stderr, flush=True)
        sys.exit(interrupt.exit_code(stop))
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, when another rank has ended
        line = explain.answer(error)
        if line is None:
            traceback.print_exc()
            sys.exit(FAULT)
        print(f"dwt-train: {line}", file=sys.stderr, flush=True)
        sys.exit(MISTAKE)
