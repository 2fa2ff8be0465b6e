"""Many runs, each a process of its own: one after the other, or several at a time.

A process that ends badly costs the others nothing. What it prints goes to a file, and the last line
of that is what it failed of.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from joblib import Parallel, delayed

from dwt_cli.base.options import Device
from dwt_cli.config import packing
from dwt_cli.config.launch import Joblib, Jobs, Launch, Submitit
from dwt_cli.config.run import Run

_GLANCE_S = 0.5
_IN_THE_QUEUE = 100


@dataclass(frozen=True)
class Task:
    """A run that has to be carried out; ``file`` takes what it prints, as ``.log``."""

    run: Run
    file: Path


@dataclass(frozen=True)
class Outcome:
    """How a run has ended: without an error, with one, or not begun at all (``fail_fast``)."""

    task: Task
    error: str | None
    begun: bool = True


class Crew:
    """As many processes at a time as the options say, each with its share of the machine.

    glance: called now and then with each task that is at work.
    """

    def __init__(self, options: Jobs, glance: Callable[[Task], None]) -> None:
        self._fail_fast, self._glance = options.fail_fast, glance
        self._share = type(options) is Joblib
        self.size = _num_parallel(options)
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(self.size):
            self._places.put(place)
        self._stop, self._failed = threading.Event(), threading.Event()

    def carry_out(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """What comes of each, as soon as it has ended.

        When the caller stops listening, the processes are asked to write a checkpoint, and waited
        for.
        """
        parallel = Parallel(self.size, backend="threading", return_as="generator_unordered")
        warnings.filterwarnings("ignore", "[0-9]+ tasks which were still being", module="joblib")
        try:
            yield from parallel(delayed(self._one)(task) for task in tasks)
        finally:
            self._stop.set()
            for _ in range(self.size):
                self._places.get()  # whoever is at work gives its place back when it has ended

    def _one(self, task: Task) -> Outcome:
        place = self._places.get()
        try:
            if self._stop.is_set() or (self._fail_fast and self._failed.is_set()):
                return Outcome(task, None, begun=False)
            outcome = Outcome(task, self._error_of(task, place))
            if outcome.error is not None:
                self._failed.set()
            return outcome
        finally:
            self._places.put(place)

    def _error_of(self, task: Task, place: int) -> str | None:
        file, launch = task.file, task.run.launch
        file.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if self._share:
            launch = _share_of(launch, place, self.size, environment)
        environment.pop("HYDRA_FULL_ERROR", None)
        file.write_text(packing.packed(replace(task.run, launch=launch)), encoding="utf-8")
        with file.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dwt_cli.launch.job", str(file)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C reaches it once, from here
            )
        try:
            while not self._stop.is_set():
                try:
                    return _error(process.wait(_GLANCE_S), file.with_suffix(".log"))
                except subprocess.TimeoutExpired:
                    self._glance(task)
        except BaseException:
            self._stop.set()
            raise
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
        return _error(process.returncode, file.with_suffix(".log"))


def _num_parallel(options: Jobs) -> int:
    if not isinstance(options, Joblib):
        return 1
    if isinstance(options, Submitit):
        return options.num_parallel or _IN_THE_QUEUE
    return options.num_parallel or torch.cuda.device_count() or os.cpu_count() or 1


def _share_of(launch: Launch, place: int, size: int, environment: dict[str, str]) -> Launch:
    """One device of those there are, and a share of the cores."""
    if launch.device is not Device.cpu and torch.cuda.is_available():
        all_of_them = ",".join(str(number) for number in range(torch.cuda.device_count()))
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", all_of_them).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    threads = launch.num_threads or max(1, (os.cpu_count() or 1) // size)
    environment["OMP_NUM_THREADS"] = str(threads)
    return replace(launch, num_threads=threads)


def _error(code: int, log: Path) -> str | None:
    """The last line that a process has printed, unless it ended well."""
    if code == 0:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1].removeprefix("dwt-train: ") if lines else "it said nothing"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else said
