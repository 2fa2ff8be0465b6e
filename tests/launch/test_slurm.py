"""What SLURM is asked for, and what becomes of its answer; `tests/test_launch.py` runs jobs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.base.interrupt import Interrupted
from dwt_cli.config import packing
from dwt_cli.config.launch import Slurm
from dwt_cli.config.run import Run
from dwt_cli.launch import slurm

ASKED = [
    "launch=slurm",
    "launch.gpus=4",
    "launch.nodes=2",
    "launch.partition=gpu",
    "launch.account=ours",
    "launch.minutes=90",
    "launch.cpus=16",
    "launch.memory_gb=64",
]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``cluster(what sbatch does)``: a machine with SLURM's commands; the folder of its runs."""

    def make(sbatch: str) -> Path:
        commands = {"sbatch": sbatch, "srun": "exit 1", "sacct": "echo 'JobID|State|NodeList'"}
        for name, does in commands.items():
            command = tmp_path / "bin" / name
            command.parent.mkdir(exist_ok=True)
            command.write_text(f"#!/bin/sh\n{does}\n")
            command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "runs"

    return make


def asked(composed: Callable[..., Run], root: Path, *words: str) -> tuple[str, str, Path, Slurm]:
    run = composed(*ASKED, f"run.root={root}", *words)
    assert isinstance(run.launch, Slurm)
    return packing.packed(run), "small-seed0", root, run.launch


def test_what_is_asked_for(composed: Callable[..., Run], cluster: Callable[[str], Path]) -> None:
    root = cluster("echo Submitted batch job 123")
    packed, *where = asked(composed, root)
    job = slurm.submit(packed, *where)
    assert job.job_id == "123"
    script = root / "slurm" / "123_submission.sh"
    lines = {line for line in script.read_text().splitlines() if line.startswith("#SBATCH")}
    assert lines >= {
        f"#SBATCH --{flag}"
        for flag in (
            "partition=gpu", "account=ours", "time=90", "nodes=2", "ntasks-per-node=1",
            "gpus-per-node=4", "cpus-per-task=16", "mem=64GB", "signal=USR2@150",
            "job-name=small-seed0",
        )
    }  # fmt: skip
    (parcelled,) = (root / "slurm").glob("*.json")
    assert parcelled.read_text() == packed


def test_on_cpus_no_gpu_is_asked_for(
    composed: Callable[..., Run], cluster: Callable[[str], Path]
) -> None:
    root = cluster("echo Submitted batch job 123")
    slurm.submit(*asked(composed, root, "launch.device=cpu"))
    script = root / "slurm" / "123_submission.sh"
    assert "gpus" not in script.read_text()


def test_a_job_that_is_not_taken_is_one_line(
    composed: Callable[..., Run], cluster: Callable[[str], Path]
) -> None:
    root = cluster("echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(UserError, match=r"invalid partition specified: gpu.*launch\.partition"):
        slurm.submit(*asked(composed, root))


def test_it_is_not_waited_for(
    composed: Callable[..., Run],
    cluster: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = cluster("echo Submitted batch job 123")
    slurm.start(*asked(composed, root, "launch.wait=false"))
    assert capsys.readouterr().out.startswith("job 123: submitted")


def test_the_message_when_waiting_is_stopped(
    composed: Callable[..., Run],
    cluster: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def impatient(seconds: float) -> None:
        raise KeyboardInterrupt

    root = cluster("echo Submitted batch job 123")
    monkeypatch.setattr(slurm.time, "sleep", impatient)
    with pytest.raises(Interrupted) as stop:
        slurm.start(*asked(composed, root))
    assert stop.value.message == (
        f"job 123 goes on; to look: tail -f {root}/slurm/123_0_log.out; to end it: scancel 123"
    )


def test_its_nodes_meet_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "node[07-09]",
    }.items():
        monkeypatch.setenv(name, value)
    assert slurm._rendezvous(Slurm(gpus=8, nodes=3)) == "node07:24567"
    assert slurm._rendezvous(Slurm(gpus=8)) is None, "by itself on one node"
    assert slurm._rendezvous(Slurm(gpus=8, nodes=2, rdzv_endpoint="a:1")) == "a:1"
