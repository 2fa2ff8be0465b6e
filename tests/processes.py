"""The front door in processes that a test may stop, kill and start again.

Most of them are forked from one that has torch loaded already, which saves each of them five
seconds: they are real processes with an id, a life and a death of their own.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["dwt_cli.recipe.worker", "dwt_cli.cli.main", "tests.processes"])


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


class Started:
    """``dwt-train`` with these arguments, at work from now on; output goes to a file."""

    every: ClassVar[list["Started"]] = []

    def __init__(self, arguments: list[str], cwd: Path, **environment: str) -> None:
        Started.every.append(self)
        self._log = cwd / f"output-{len(Started.every)}.txt"
        self._process = _FORKSERVER.Process(
            target=_front_door, args=(arguments, cwd, self._log, environment)
        )
        self._process.start()
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


def _front_door(arguments: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    sys.argv = ["dwt-train", *arguments]

    from dwt_cli.cli import main

    main.main()
