"""A run as a job of SLURM: submitted here, through submitit, and started on each node.

On every node the job's one task starts the ranks there, as launch=torchrun does. Before SLURM takes
the job's time or place away, the ranks write a checkpoint and the job is queued again; it goes on
from there by itself.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import Checkpointable, DelayedSubmission

from dwt_cli.base import atomic
from dwt_cli.base.errors import Reported, UserError
from dwt_cli.base.interrupt import GRACE_S, Interrupted
from dwt_cli.base.options import Device
from dwt_cli.base.scratch import scratch
from dwt_cli.config import packing
from dwt_cli.config.launch import Executor, Slurm
from dwt_cli.launch.process import QUIETLY

_SIGNAL_S = GRACE_S + 30  # so long before the end of its time a job gets a signal
_POLL_S = 1.0


def start(packed: str, name: str, root: Path, options: Slurm) -> None:
    """Submit a run and, with launch.wait, wait for its end.

    Raises what `submit` raises, `UserError` with a failed job's message, and `Interrupted` when
    somebody stops waiting: the job goes on.
    """
    job = submit(packed, name, root, options)
    print(f"job {job.job_id}: submitted; its log: {job.paths.stdout}", flush=True)
    if not options.wait:
        return
    state = None
    try:
        # the debug executor works when it is asked for the outcome, in this process
        while options.executor is not Executor.debug and not job.done():
            if job.state != state:
                state = job.state
                print(f"job {job.job_id}: {state.lower()}", flush=True)
            time.sleep(_POLL_S)
        error = job.exception()
    except KeyboardInterrupt as stop:
        end = "scancel" if options.executor is Executor.slurm else "kill"
        raise Interrupted(
            number=getattr(stop, "number", signal.SIGINT),
            message=f"job {job.job_id} goes on; to look: tail -f {job.paths.stdout}; "
            f"to end it: {end} {job.job_id}",
        ) from stop
    for line in (job.stdout() or "").splitlines():
        if not line.startswith("submitit "):
            print(line)
    if error is not None:
        raise _in_one_line(job, error)


def submit(packed: str, name: str, root: Path, options: Slurm) -> submitit.Job[None]:
    """Hand a packed run over to SLURM and come back at once; `UserError` when it is not taken.

    name: the job's. root: the folder of runs, below which its logs are.
    """
    if options.executor is Executor.slurm and shutil.which("sbatch") is None:
        raise UserError(
            "launch.executor=slurm: there is no sbatch on this machine; submit from a login node "
            "of the cluster, or choose launch=torchrun"
        )
    folder = root.expanduser().absolute() / options.folder
    file = folder / f"{hashlib.sha256(packed.encode()).hexdigest()[:16]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, packed)
    executor = submitit.AutoExecutor(
        folder, options.executor.name, slurm_max_num_timeout=options.max_timeouts
    )
    executor.update_parameters(
        name=name,
        timeout_min=options.minutes,
        nodes=options.nodes,
        tasks_per_node=1,
        gpus_per_node=None if options.device is Device.cpu else options.gpus,
        cpus_per_task=options.cpus,
        mem_gb=options.memory_gb,
        slurm_partition=options.partition,
        slurm_account=options.account,
        slurm_signal_delay_s=_SIGNAL_S,
    )
    try:
        return executor.submit(_Node(str(file)))
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"launch=slurm: sbatch does not take the job ({reason}); put launch.partition, "
            "launch.account or launch.minutes right"
        ) from error


def _in_one_line(job: submitit.Job[None], error: BaseException) -> BaseException:
    """Return the job's last message as an error; its log has everything."""
    lines = (job.stderr() or "").splitlines()
    if messages := [line for line in lines if line.startswith("dwt-train: ")]:
        return UserError(messages[-1].removeprefix("dwt-train: "))
    if isinstance(error, Reported):  # by the debug executor, here
        return error
    return UserError(
        f"job {job.job_id} has left no result ({job.state.lower()}); see {job.paths.stderr}"
    )


class _Node(Checkpointable):
    """A job's work on one node. submitit pickles it: it holds the path of a file, no more."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._ranks: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        run = packing.unpacked(Path(self._file).read_text(encoding="utf-8"))
        assert run.launch.job is not None
        launch = replace(run.launch.job, rdzv_endpoint=_rendezvous(run.launch.job))
        with scratch() as folder:
            file = Path(folder) / "run.json"
            file.write_text(packing.packed(replace(run, launch=launch)), encoding="utf-8")
            self._ranks = subprocess.Popen(
                [sys.executable, "-m", "dwt_cli.launch", "node", str(file)],
                env=QUIETLY | os.environ,
            )
            signal.signal(signal.SIGTERM, self._end)  # submitit ignores it
            code = self._ranks.wait()
        if code:
            raise Reported(code)

    def checkpoint(self) -> DelayedSubmission:
        """Return what to do when the job comes back; submitit asks before it goes."""
        if self._ranks is not None:
            self._end()
            # asked in the midst of the other wait, which holds the lock of Popen.wait
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._ranks.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(_Node(self._file))

    def _end(self, *signal_and_frame: object) -> None:
        """Have the ranks finish their step, write a checkpoint and exit."""
        assert self._ranks is not None
        self._ranks.terminate()


def _rendezvous(options: Slurm) -> str | None:
    """Return HOST:PORT where this job's nodes meet: the first one, a port from the job's number."""
    if options.rdzv_endpoint is not None or options.nodes == 1:
        return options.rdzv_endpoint
    job = submitit.JobEnvironment()
    return f"{job.hostnames[0]}:{20_000 + int(job.raw_job_id) % 10_000}"
