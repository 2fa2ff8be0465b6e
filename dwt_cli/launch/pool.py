"""Many runs, each a process of its own: one after the other, or several at a time.

A process that ends badly costs the others nothing. What it prints goes to a file, whose last line
is the error that it ended with.
"""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dwt_cli.base.options import Device
from dwt_cli.config import packing
from dwt_cli.config.launch import Jobs, Launch
from dwt_cli.config.run import Run

_POLL_S = 0.5


@dataclass(frozen=True)
class Queued:
    """A run that has to be carried out; ``file`` takes it packed, and as ``.log`` its output."""

    run: Run
    file: Path


@dataclass(frozen=True)
class Outcome:
    """End of a run: without an error, with one, or not begun at all (``fail_fast``)."""

    queued: Queued
    error: str | None
    begun: bool = True


class Pool:
    """As many processes at a time as the options ask for, each with its share of the machine.

    poll: called now and then with each run that is at work, from a thread of its own.
    """

    def __init__(self, options: Jobs, poll: Callable[[Queued], None]) -> None:
        self._options, self._poll = options, poll
        self._size = options.at_a_time(torch.cuda.device_count())
        self._stop, self._failed, self._abandoned = (threading.Event() for _ in range(3))
        self._thread = threading.local()  # .place: its number, from 0

    def carry_out(self, runs: Sequence[Queued]) -> Iterator[Outcome]:
        """Yield what comes of each run, as soon as it has ended.

        When the caller stops iterating, the processes are asked to write a checkpoint, and waited
        for; a second Ctrl-C leaves them to it.
        """
        places = itertools.count()
        threads = ThreadPoolExecutor(
            self._size, initializer=lambda: setattr(self._thread, "place", next(places))
        )
        try:
            for ended in as_completed([threads.submit(self._one, queued) for queued in runs]):
                yield ended.result()
        finally:
            self._stop.set()
            try:
                threads.shutdown()
            except KeyboardInterrupt:
                self._abandoned.set()
                raise

    def _one(self, queued: Queued) -> Outcome:
        if self._stop.is_set() or (self._options.fail_fast and self._failed.is_set()):
            return Outcome(queued, None, begun=False)
        outcome = Outcome(queued, self._error_of(queued))
        if outcome.error is not None:
            self._failed.set()
        return outcome

    def _error_of(self, queued: Queued) -> str | None:
        file, launch = queued.file, queued.run.launch
        log = file.with_suffix(".log")
        file.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if self._options.shares_machine:
            launch = _share_of(launch, self._thread.place, self._size, environment)
        environment.pop("HYDRA_FULL_ERROR", None)
        file.write_text(packing.packed(replace(queued.run, launch=launch)), encoding="utf-8")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dwt_cli.launch", "job", str(file)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C reaches it once, from here
            )
        try:
            while not self._stop.is_set():
                try:
                    return _error(process.wait(_POLL_S), log)
                except subprocess.TimeoutExpired:
                    self._poll(queued)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            while process.poll() is None and not self._abandoned.wait(_POLL_S):
                pass
        return _error(process.returncode, log)


def _share_of(launch: Launch, place: int, size: int, environment: dict[str, str]) -> Launch:
    """Return ``launch`` with one of the machine's devices and a share of its cores."""
    if launch.device is not Device.cpu and torch.cuda.is_available():
        every = ",".join(str(number) for number in range(torch.cuda.device_count()))
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    threads = launch.num_threads or max(1, (os.cpu_count() or 1) // size)
    environment["OMP_NUM_THREADS"] = str(threads)
    return replace(launch, num_threads=threads)


def _error(code: int | None, log: Path) -> str | None:
    """Return the last line that a process has printed, unless it ended well."""
    if not code:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return lines[-1].removeprefix("dwt-train: ") if lines else "it has printed nothing"
