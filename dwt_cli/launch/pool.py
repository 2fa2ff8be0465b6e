"""Many runs, each a process of its own: one after the other, or several at a time.

A process that ends badly costs the others nothing. What it prints goes to a file, whose last line
is the error that it ended with.
"""

import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from dwt_cli.config.launch import Jobs
from dwt_cli.launch.start import Fresh

_POLL_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """End of the run packed in ``file``: well, with an error, or not begun at all (fail_fast)."""

    file: Path
    error: str | None
    begun: bool = True


class Pool:
    """As many processes at a time as the options ask for, each with its share of the machine.

    processes: what starts them. poll: called now and then with the file of each run at work, from
    a thread of its own.
    """

    def __init__(self, options: Jobs, processes: Fresh, poll: Callable[[Path], None]) -> None:
        self._options, self._processes, self._poll = options, processes, poll
        self._size = options.at_a_time(torch.cuda.device_count())
        self._stop, self._failed, self._abandoned = (threading.Event() for _ in range(3))
        self._thread = threading.local()  # .place: its number, from 0

    def carry_out(self, files: Sequence[Path]) -> Iterator[Outcome]:
        """Yield what comes of each packed run as soon as it has ended; its ``.log`` has its output.

        When the caller stops iterating, the processes are asked to write a checkpoint, and waited
        for; a second Ctrl-C leaves them to it.
        """
        places = itertools.count()
        threads = ThreadPoolExecutor(
            self._size, initializer=lambda: setattr(self._thread, "place", next(places))
        )
        try:
            for ended in as_completed([threads.submit(self._one, file) for file in files]):
                yield ended.result()
        finally:
            self._stop.set()
            try:
                threads.shutdown()
            except KeyboardInterrupt:
                self._abandoned.set()
                raise

    def _one(self, file: Path) -> Outcome:
        if self._stop.is_set() or (self._options.fail_fast and self._failed.is_set()):
            return Outcome(file, None, begun=False)
        if error := self._error_of(file):
            self._failed.set()
        return Outcome(file, error)

    def _error_of(self, file: Path) -> str | None:
        log = file.with_suffix(".log")
        environment = os.environ | (self._share() if self._options.shares_machine else {})
        environment.pop("HYDRA_FULL_ERROR", None)
        with log.open("wb") as output:
            process = self._processes.begin("job", file, environment, output)
        try:
            while not self._stop.is_set():
                try:
                    return _error(process.wait(_POLL_S), log)
                except subprocess.TimeoutExpired:
                    self._poll(file)
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGINT)
            while process.poll() is None and not self._abandoned.wait(_POLL_S):
                pass
        return _error(process.poll(), log)

    def _share(self) -> dict[str, str]:
        """Return the environment with one of the machine's devices and a share of its cores."""
        share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self._size))}
        if num_devices := torch.cuda.device_count():
            every = ",".join(map(str, range(num_devices)))
            devices = os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",")
            share["CUDA_VISIBLE_DEVICES"] = devices[self._thread.place % len(devices)]
        return share


def _error(code: int | None, log: Path) -> str | None:
    """Return the last line that a process has printed, unless it ended well."""
    if not code:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return lines[-1].removeprefix("dwt-train: ") if lines else "it has printed nothing"
