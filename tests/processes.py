"""``dwt-train`` in processes that a test may wait for, stop, kill and start again.

They are forked from one that has torch loaded already, which saves each of them five seconds: they
are real processes with an id, a life and a death of their own.
"""

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, ClassVar

_PRELOADED = [
    "dwt_cli.cli.command",
    "dwt_cli.launch.sweep",
    "dwt_cli.launch.torchrun",
    "dwt_cli.recipe.evaluate",
    "dwt_cli.recipe.worker",
    "matplotlib.backends.backend_agg",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.metrics",
    "tests.processes",
    "transformers.models.bert.modeling_bert",
    "transformers.models.modernbert.modeling_modernbert",
]
PROGRAMS = {
    "dwt-train": ("dwt_cli.cli.main", "main"),
    "dwt-eval": ("dwt_cli.cli.main", "evaluate_main"),
    "dwt-advise": ("dwt_cli.cli.main", "advise_main"),
    "dwt-report": ("dwt_cli.cli.report", "main"),
    "dwt-runs": ("dwt_cli.cli.runs", "main"),
    "dwt-cache": ("dwt_cli.cli.cache", "main"),
    "dwt-trace": ("dwt_cli.cli.trace", "main"),
}

_FORKSERVER = multiprocessing.get_context("forkserver")  # one server per process of pytest
_FORKSERVER.set_forkserver_preload(_PRELOADED)


def together(
    num_ranks: int, work: Callable[..., Any], *arguments: Any, device: str = "cpu"
) -> list[Any]:
    """What ``work(ranks, *arguments)`` returns on each of so many ranks, over gloo (or nccl).

    Every one of them has to leave with exit code 0.
    """
    answers, processes = rank_processes(num_ranks, work, arguments, device)
    try:
        found = dict(answers.get(timeout=200) for _ in processes)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * num_ranks
    finally:
        for process in processes:
            process.kill()
    return [found[rank] for rank in range(num_ranks)]


def rank_processes(
    num_ranks: int, work: Callable[..., Any], arguments: tuple[Any, ...], device: str = "cpu"
) -> tuple[Any, list[Any]]:
    """The queue of (rank, answer), and the processes, at work from now on."""
    answers = _FORKSERVER.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        _FORKSERVER.Process(
            target=_rank, args=(rank, num_ranks, port, device, answers, work, arguments)
        )
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    return answers, processes


def _rank(
    rank: int,
    size: int,
    port: int,
    device: str,
    answers: Any,
    work: Callable[..., Any],
    arguments: Any,
) -> None:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(where | {"RANK": str(rank), "WORLD_SIZE": str(size)})

    from dwt_cli.base.options import Device
    from dwt_cli.base.ranks import joined

    with joined(Device[device], timedelta(hours=1)) as ranks:
        answers.put((rank, work(ranks, *arguments)))


def dwt_train(
    *arguments: str,
    cwd: Path,
    timeout: float = 120,
    program: str = "dwt-train",
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run ``dwt-train`` to its end as a person would, in a process of its own.

    program: another one of `PROGRAMS`. environment: what is set beside this process's own.
    A negative return code is a signal.
    Raises `subprocess.TimeoutExpired` when it takes longer than ``timeout`` seconds.
    """
    command = [program, *arguments]
    settings = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"} | environment
    with tempfile.TemporaryDirectory(prefix="dwt-test-") as folder:
        logs = Path(folder, "out"), Path(folder, "err")
        for log in logs:
            log.touch()
        process = _begin(command, cwd, *logs, settings)
        process.join(timeout)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        output, errors = (log.read_text(errors="replace") for log in logs)
    if code is None:
        raise subprocess.TimeoutExpired(command, timeout, output, errors)
    return subprocess.CompletedProcess(command, code, output, errors)


class Started:
    """``dwt-train``, or a program that is named first, at work from now on.

    Output goes to a file, in cwd or in the folder of logs. before: is called in the process.
    """

    every: ClassVar[list["Started"]] = []

    def __init__(
        self,
        arguments: list[str],
        cwd: Path,
        *,
        logs: Path | None = None,
        before: Callable[[], object] | None = None,
        **environment: str,
    ) -> None:
        Started.every.append(self)
        self._log = (logs or cwd) / f"output-{len(Started.every)}.txt"
        command = arguments if arguments[0] in PROGRAMS else ["dwt-train", *arguments]
        self._process = _begin(command, cwd, self._log, self._log, environment, before)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def wait_until(self, happened: Callable[[], object], seconds: float = 150) -> None:
        """Look all the time whether it has happened; fails when the process ends before."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self._process.is_alive(), f"it ended before: {self.output}"
            assert time.monotonic() < deadline, f"it never happened: {self.output}"
            time.sleep(0.002)

    def freeze_when(self, state: Callable[[], object]) -> None:
        """Stop it in this very state: it is looked at again while the process stands still."""
        while True:
            self.wait_until(state)
            self.send(signal.SIGSTOP)
            if state():
                return
            self.send(signal.SIGCONT)

    @property
    def is_at_work(self) -> bool:
        return self._process.is_alive()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and it is gone."""
        self.send(signal.SIGKILL)
        assert self.ended() == -signal.SIGKILL

    @classmethod
    def end_all(cls) -> None:
        """Kill what a failed test has left, frozen or not."""
        for started in cls.every:
            if started._process.is_alive():
                started.kill()

    def ended(self, seconds: float = 200) -> int:
        """The exit code, when it has one."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"still at work: {self.output}"
        return code


def _begin(
    command: list[str],
    cwd: Path,
    out: Path,
    err: Path,
    environment: dict[str, str],
    before: Callable[[], object] | None = None,
) -> ForkServerProcess:
    arguments = (command, cwd, (out, err), os.environ | environment, before)
    process = _FORKSERVER.Process(target=_command, args=arguments)
    process.start()
    return process


def _command(
    command: list[str],
    cwd: Path,
    logs: tuple[Path, Path],
    environment: dict[str, str],
    before: Callable[[], object] | None,
) -> None:
    missing = [name for name in _PRELOADED if name not in sys.modules]
    assert not missing, f"not preloaded, each process would do it again: {missing}"
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for stream, log in enumerate(logs, start=1):
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
        os.close(file)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    sys.argv = command
    if before:
        before()

    module, function = PROGRAMS[command[0]]
    try:
        sys.exit(getattr(import_module(module), function)())
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves without them
