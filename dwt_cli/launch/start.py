"""Ways to start a process for a packed run: a fresh one, or a fork of one that has loaded torch.

A fork begins at once; a fresh process imports for seconds before its first line. Both are children
of who has asked, sessions of their own, and end with the same codes.
"""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from math import inf
from multiprocessing import Pipe, popen_fork
from multiprocessing.connection import Connection
from pathlib import Path

from dwt_cli.base.interrupt import SIGNALS
from dwt_cli.config.launch import Start
from dwt_cli.launch.process import loading, main

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.002
_LOADED = (
    "dwt_cli.recipe.worker",
    "dwt_cli.distill.loss",
    "dwt_cli.track.curves",
    "matplotlib.backends.backend_agg",
)


class _Forked(popen_fork.Popen):
    """A child that another process has forked. Whether it has ended is asked again and again."""

    def _launch(self, pid: int) -> None:
        self.pid = pid

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code; None: after so many seconds there is none yet."""
        end = time.monotonic() + (inf if timeout is None else timeout)
        while self.poll() is None and time.monotonic() < end:
            time.sleep(_POLL_S)
        return self.returncode


Child = subprocess.Popen[bytes] | _Forked
Begin = Callable[[str, Path, Mapping[str, str], Path | None], Child]
"""Starts a process in a role of `dwt_cli.launch`, on a file, with all of its environment.

Last the file that it prints to; None: where this process does.
"""


def fresh(role: str, file: Path, environment: Mapping[str, str], log: Path | None) -> Child:
    """Start a new interpreter (`Begin`)."""
    with log.open("wb") if log else nullcontext() as output:
        return subprocess.Popen(
            [sys.executable, "-m", "dwt_cli.launch", role, str(file)],
            stdout=output,
            stderr=output and subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a Ctrl-C reaches it once, from who has started it
        )


@contextmanager
def starter(start: Start = Start.fork) -> Iterator[Begin]:
    """Yield what starts processes, open for as long as they are started.

    A fork is made by a server, which is a fork of this process and loads torch meanwhile. It forks
    twice, so that the process becomes a child of this one: signals, exit codes and the parent's end
    are those of any child. The context is opened before this process has threads, locks or CUDA,
    for a fork would have them too.
    """
    if start is not Start.fork or platform.system() != "Linux":
        yield fresh  # elsewhere frameworks that are loaded end in a fork
        return
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    line, theirs = Pipe()
    server = os.fork()
    if server == 0:
        try:
            line.close()
            _serve(theirs)
        finally:
            os._exit(1)  # seen by the server, if it is a fork of it that could not fork
    theirs.close()

    def fork(role: str, file: Path, environment: Mapping[str, str], log: Path | None) -> Child:
        pid = None
        with suppress(OSError, EOFError):  # somebody has killed the server
            line.send((role, file, dict(environment), log))
            pid = line.recv()
        return _Forked(pid) if pid else fresh(role, file, environment, log)

    try:
        yield fork
    finally:
        line.close()
        os.kill(server, signal.SIGKILL)  # it may still be loading
        os.waitpid(server, 0)


def _serve(line: Connection) -> None:
    """Fork for each request until the line is closed, as it is when who asks is gone.

    The answer is the process that does the work, which gives it, or None: none could begin.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with loading(is_shown=False):
        for module in _LOADED:
            import_module(module)
    with suppress(EOFError):
        while True:
            request = line.recv()
            between = os.fork()
            if between == 0:
                _fork(line, *request)
            if os.waitpid(between, 0)[1]:
                line.send(None)


def _fork(
    line: Connection, role: str, file: Path, environment: dict[str, str], log: Path | None
) -> None:
    """Do the work in a child, and end; the child is then one of who has asked. Never returns."""
    between = os.getpid()
    if os.fork():
        os._exit(0)
    answer: int | None = None
    code: object = 1
    try:
        with suppress(OSError):  # a fresh start says what is wrong
            _settle(between, log)
            answer = os.getpid()
        line.send(answer)
        line.close()
        if answer is None:
            sys.exit(1)
        threads = environment.get("OMP_NUM_THREADS")
        if threads != os.environ.get("OMP_NUM_THREADS") and threads is not None:
            import torch

            torch.set_num_threads(int(threads))  # it has read another's when it was loaded
        os.environ.clear()
        os.environ.update(environment)
        main(role, file)
        code = 0
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):  # a disk may be full
            sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)
        os._exit(code if isinstance(code, int) else 1)


def _settle(between: int, log: Path | None) -> None:
    """Wait until ``between`` is gone; have a session, signals and output of one's own."""
    while os.getppid() == between:
        time.sleep(_POLL_S)
    os.setsid()
    for number in SIGNALS:
        is_interrupt = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    if log:
        with log.open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
