"""The options of launch and jobs: how many processes, where."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import ClassVar

from dwt_cli.base.options import Device, above, at_least, between

_MOST_RANKS = 1 << 16


@dataclass
class Launch:
    """Number and place of a run's processes. num_threads: of each; null shares the cores."""

    device: Device = Device.auto
    num_threads: int | None = between(1, 1024, None)

    @property
    def ranks(self) -> "Torchrun | None":
        """The options of several processes; None: there is one."""
        return None

    @property
    def job(self) -> "Slurm | None":
        """The job in which they are started; None: they are started here."""
        return None

    @property
    def num_ranks(self) -> int:
        """The number of processes that work on a run, on all machines together."""
        return self.ranks.gpus * self.ranks.nodes if self.ranks else 1

    @property
    def max_wait(self) -> timedelta:
        """The time that a rank waits for another."""
        return timedelta(minutes=self.ranks.max_wait_minutes if self.ranks else 60)


@dataclass
class Local(Launch):
    """One process on this machine."""


@dataclass
class Torchrun(Launch):
    """Several processes (ranks) on one or more machines (nodes), by torch's own launcher.

    gpus: ranks on each node, one for each GPU; with launch.device=cpu so many CPU processes.
    rdzv_endpoint: HOST:PORT at which the nodes meet, the same command on each; null: one node.
    max_restarts: how often all ranks begin again, from the last checkpoint, when one has died.
    max_wait_minutes: how long a rank waits for another, and a node for the others.
    """

    gpus: int = between(1, _MOST_RANKS)
    nodes: int = between(1, _MOST_RANKS, 1)
    rdzv_endpoint: str | None = None
    max_restarts: int = between(0, _MOST_RANKS, 0)
    max_wait_minutes: float = above(0, 60.0)

    @property
    def ranks(self) -> "Torchrun":
        return self

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the settings together, one line each."""
        endpoint = self.rdzv_endpoint
        if self.nodes > 1 and endpoint is None and self.job is None:
            yield (
                f"{setting}.nodes={self.nodes}: give the place where they meet, as in "
                f"{setting}.rdzv_endpoint=HOST:29400, the same on each"
            )
        if endpoint is not None and not re.fullmatch(r"[^:]+:\d{1,5}", endpoint):
            yield f"{setting}.rdzv_endpoint={endpoint}: write HOST:PORT, as in node1:29400"


class Executor(Enum):
    """Executor of a job: SLURM; or, to try it out here, local in the background and debug."""

    slurm = "slurm"
    local = "local"
    debug = "debug"


@dataclass
class Slurm(Torchrun):
    """The ranks of `Torchrun`, in a job of SLURM; its nodes meet by themselves.

    minutes: the job's time limit. max_timeouts: how often it is queued again when it has met it;
    after a preemption it always is. cpus, memory_gb: of each node; null: what the partition gives.
    folder: of the logs, below run.root. wait: until the job has ended; false leaves it alone.
    """

    partition: str | None = None
    account: str | None = None
    minutes: int = at_least(5, 1440, "the last ones are for a checkpoint")
    max_timeouts: int = at_least(0, 3)
    cpus: int | None = above(0, None)
    memory_gb: float | None = above(0, None)
    folder: str = "slurm"
    wait: bool = True
    executor: Executor = Executor.slurm

    @property
    def job(self) -> "Slurm":
        return self

    def problems(self, setting: str) -> Iterator[str]:
        yield from super().problems(setting)
        if self.executor is not Executor.slurm and self.nodes > 1:
            yield (
                f"{setting}.nodes={self.nodes} with {setting}.executor={self.executor.name}: that "
                f"is one machine; leave {setting}.nodes out"
            )


class Start(Enum):
    """Start of a process: a fork of one that has loaded torch (on Linux), or a fresh one."""

    fork = "fork"
    fresh = "fresh"


@dataclass
class Jobs:
    """Order in which the runs of a multirun are carried out, each in a process of its own.

    shares_machine: whether those at work share its devices and cores. needs_slurm: whether each
    is handed to SLURM. fail_fast: begin no other one after one has failed. start: of each process.
    clone: the commit whose code they all run, from a clone in the cache, HEAD for the last one;
    null: the code that is here, as it is when each begins.
    """

    shares_machine: ClassVar[bool] = False
    needs_slurm: ClassVar[bool] = False

    fail_fast: bool = False
    start: Start = Start.fork
    clone: str | None = None

    def at_a_time(self, num_devices: int) -> int:
        """Return how many are at work at a time on a machine with so many CUDA devices."""
        return 1


@dataclass
class Basic(Jobs):
    """One after the other."""


@dataclass
class Joblib(Jobs):
    """Several at a time on this machine; its devices are dealt out, its cores shared.

    num_parallel: how many; null: one for each CUDA device, or for each core.
    """

    shares_machine: ClassVar[bool] = True

    num_parallel: int | None = at_least(1, None)

    def at_a_time(self, num_devices: int) -> int:
        return self.num_parallel or num_devices or os.cpu_count() or 1


@dataclass
class Submitit(Joblib):
    """Each of them a job of SLURM with the options of launch; here one process waits for each.

    num_parallel: how many are handed over at a time; null: 100.
    """

    shares_machine: ClassVar[bool] = False
    needs_slurm: ClassVar[bool] = True

    def at_a_time(self, num_devices: int) -> int:
        return self.num_parallel or 100
