"""The options of launch and jobs: how many processes, where."""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from omegaconf import MISSING

from dwt_cli.base.options import Device


@dataclass
class Launch:
    """One process on this machine. num_threads: of each process; null shares the cores."""

    device: Device = Device.auto
    num_threads: int | None = None

    @property
    def num_ranks(self) -> int:
        """How many processes work on a run, on all machines together."""
        return 1

    @property
    def max_wait(self) -> timedelta:
        """How long a rank waits for another."""
        return timedelta(hours=1)


@dataclass
class Torchrun(Launch):
    """Several processes (ranks) on one or more machines (nodes), by torch's own launcher.

    gpus: ranks on each node, one for each GPU; with launch.device=cpu so many CPU processes.
    rdzv_endpoint: HOST:PORT at which the nodes meet, the same command on each; null: one node.
    max_restarts: how often all ranks begin again, from the last checkpoint, when one has died.
    max_wait_minutes: how long a rank waits for another, and a node for the others.
    """

    gpus: int = MISSING
    nodes: int = 1
    rdzv_endpoint: str | None = None
    max_restarts: int = 0
    max_wait_minutes: float = 60.0

    @property
    def num_ranks(self) -> int:
        return self.gpus * self.nodes

    @property
    def max_wait(self) -> timedelta:
        return timedelta(minutes=self.max_wait_minutes)


class Executor(Enum):
    """Who carries a job out: SLURM; or, to try it out here, local in the background and debug."""

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
    minutes: int = 1440
    max_timeouts: int = 3
    cpus: int | None = None
    memory_gb: float | None = None
    folder: str = "slurm"
    wait: bool = True
    executor: Executor = Executor.slurm


@dataclass
class Jobs:
    """How the runs of a multirun are carried out: one after the other, each a process of its own.

    fail_fast: begin no other one after one has failed.
    """

    fail_fast: bool = False


@dataclass
class Joblib(Jobs):
    """Several at a time on this machine; its devices are dealt out, its cores shared.

    num_parallel: how many; null: one for each CUDA device, or for each core.
    """

    num_parallel: int | None = None


@dataclass
class Submitit(Joblib):
    """Each of them a job of SLURM, as launch=slurm says; here one process waits for each.

    num_parallel: how many are handed over at a time; null: 100.
    """
