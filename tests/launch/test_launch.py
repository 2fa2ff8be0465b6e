"""One command, several processes: the same run, whoever starts and whatever ends them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import Device
from dwt_cli.config import packing
from dwt_cli.config.launch import Torchrun
from dwt_cli.config.run import Run
from dwt_cli.launch import torchrun
from dwt_cli.launch.start import fresh
from tests.miniature import SCALE, dwt_train, options, write_text
from tests.processes import Started

LONGER = ["train.precision=fp32", "teacher.num_layers=1", "student.num_layers=2"]
TORCHRUN = ["launch=torchrun", "launch.device=cpu", "launch.gpus=2"]
A_NODE = [*TORCHRUN[:2], "launch.gpus=1"]
SLURM = ["launch=slurm", "launch.gpus=1"]

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks there for pids")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    write_text(folder / "text")
    return folder


@pytest.fixture(scope="module")
def alone(text: Path) -> list[float]:
    """The losses of the run in one process, with the corpus and the teacher of its own."""
    done = dwt_train(*options(text), *LONGER, cwd=text)
    assert done.returncode == 0, done.stderr
    return losses(text / "runs")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    Started.end_all()


def losses(root: Path) -> list[float]:
    (file,) = root.glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def but_warnings(printed: str) -> list[str]:
    """Lines of stderr, without those about words that a later one takes back."""
    return [line for line in printed.splitlines() if not line.startswith("warning: ")]


def elsewhere(text: Path, folder: Path) -> list[str]:
    """The miniature run on the same text, with a root and a cache below ``folder``."""
    kept = [word for word in options(text) if not word.startswith("run.")]
    return [*kept, *LONGER, f"run.root={folder}/runs", f"run.cache={folder}/cache"]


def a_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def test_two_processes_do_the_run_of_one(text: Path, tmp_path: Path, alone: list[float]) -> None:
    """Stopped, killed, begun again and killed: nothing of it is seen in the losses."""
    words = [*elsewhere(text, tmp_path), "train.checkpoint_every=1", "eval.at=[0.5,1]"]
    first = Started([*words, *TORCHRUN], tmp_path)
    first.wait_until(lambda: list(tmp_path.glob("runs/*/checkpoints/step-*")))
    first.send(signal.SIGTERM)
    assert first.ended() == 143, first.output
    assert "dwt-train: stopped; to go on: dwt-train" in first.output
    assert "Traceback" not in first.output

    sharded = ["parallel=fsdp", "parallel.shard_teacher=true", "launch.max_restarts=1"]
    second = Started([*words, *TORCHRUN, *sharded], tmp_path)
    second.wait_until(lambda: "student: going on" in second.output)
    os.kill(children(second.pid)[-1], signal.SIGKILL)
    second.wait_until(lambda: second.output.count("student: going on") == 2)
    ranks = children(second.pid)
    os.kill(ranks[-1], signal.SIGKILL)
    killed = time.monotonic()
    assert second.ended() == 2, second.output
    assert time.monotonic() - killed < 20
    (line,) = [line for line in second.output.splitlines() if line.startswith("dwt-train: ")]
    assert "was killed by SIGKILL" in line and "Traceback" not in second.output
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)

    last = Started(words, tmp_path)
    assert last.ended() == 0, last.output
    assert losses(tmp_path / "runs") == pytest.approx(alone, rel=1e-3)
    (model,) = tmp_path.glob("runs/*/model")
    assert AutoModelForMaskedLM.from_pretrained(model).config.num_hidden_layers == 2


@pytest.mark.slow
def test_two_processes_read_what_one_teacher_writes(text: Path, tmp_path: Path) -> None:
    """A share of each rank's blocks is the teacher's own; the teacher is the same one."""
    words = [*elsewhere(text, tmp_path), "explore=sample", "explore.share=0.5"]
    found = []
    for name, more in {"one": [], "two": TORCHRUN}.items():
        run = Started([*words, *more, f"run.root={tmp_path}/{name}"], tmp_path)
        assert run.ended() == 0, run.output
        found.append(losses(tmp_path / name))
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.slow
def test_restarted_ranks_leave_whole_models(text: Path, tmp_path: Path, alone: list[float]) -> None:
    """What is sharded is kept on its way, by ranks that were killed and go on by themselves."""
    kept = ["parallel=fsdp", "parallel.shard_teacher=true", "eval.at=[0.5,1]"]
    words = [*elsewhere(text, tmp_path), *TORCHRUN, *kept, "launch.max_restarts=1"]
    door = Started([*words, "train.checkpoint_every=1"], tmp_path)
    door.wait_until(lambda: list(tmp_path.glob("runs/*/checkpoints/step-*")))
    os.kill(children(door.pid)[-1], signal.SIGKILL)
    assert door.ended() == 0, door.output
    assert "student: going on" in door.output
    assert losses(tmp_path / "runs") == pytest.approx(alone, rel=1e-3)
    (run,) = tmp_path.glob("runs/*/model")
    half, whole = (
        load_file(place / "model.safetensors") for place in (run.parent / "snapshots" / "0.5", run)
    )
    assert half.keys() == whole.keys()
    assert not any(torch.equal(half[name], whole[name]) for name in half if "Wqkv" in name)


@pytest.mark.slow
def test_somebody_else_s_torchrun(text: Path, tmp_path: Path, alone: list[float]) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*elsewhere(text, tmp_path), "launch.device=cpu"]
    done = subprocess.run(
        [sys.executable, *command, "-m", "dwt_cli.cli", *words],
        capture_output=True, text=True, check=False, timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("record: ") == 1
    assert losses(tmp_path / "runs") == pytest.approx(alone, rel=1e-3)


@pytest.mark.slow
def test_two_nodes_meet(text: Path, tmp_path: Path, alone: list[float]) -> None:
    """Two front doors on this machine, with one rank each and the same command."""
    meeting = ["launch.nodes=2", f"launch.rdzv_endpoint=localhost:{a_free_port()}"]
    words = [*elsewhere(text, tmp_path), *A_NODE, *meeting]
    nodes = [Started(words, tmp_path) for _ in range(2)]
    assert [node.ended() for node in nodes] == [0, 0], [node.output for node in nodes]
    assert sum(node.output.count("record: ") for node in nodes) == 1
    assert losses(tmp_path / "runs") == pytest.approx(alone, rel=1e-3)


def test_more_ranks_than_devices_is_one_line(text: Path, tmp_path: Path) -> None:
    words = [*elsewhere(text, tmp_path), "launch=torchrun", "launch.gpus=2", "launch.device=auto"]
    done = dwt_train(*words, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    (line,) = but_warnings(done.stderr)
    assert line.startswith("dwt-train: launch.gpus=2: torch sees 0 CUDA devices here")


@pytest.mark.slow
def test_nobody_at_the_rendezvous_is_refused() -> None:
    place = f"localhost:{a_free_port()}"
    meeting = Torchrun(
        device=Device.cpu, gpus=1, nodes=2, rdzv_endpoint=place, max_wait_minutes=0.03
    )
    with pytest.raises(UserError, match=f"^launch.rdzv_endpoint={place}: 2 nodes have not met"):
        torchrun.start("", meeting, fresh)


def test_somebody_else_at_the_rendezvous_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes connections there and says nothing would be waited for without end."""
    monkeypatch.setattr(torchrun, "_ANSWER_S", 0.2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"localhost:{other.getsockname()[1]}"
        meeting = Torchrun(device=Device.cpu, gpus=1, nodes=2, rdzv_endpoint=place)
        with pytest.raises(UserError, match=f"^launch.rdzv_endpoint={place}: something else"):
            torchrun.start("", meeting, fresh)


@pytest.mark.slow
def test_nodes_with_other_texts_end_with_a_line_each(text: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for number, folder in enumerate(folders):
        write_text(folder / "text", num_documents=60 - number)
    meeting = ["launch.nodes=2", f"launch.rdzv_endpoint=localhost:{a_free_port()}"]
    words = [*SCALE, *LONGER, *A_NODE, *meeting, "data=files", "data.path=text"]
    places = ["run.root=runs", "run.cache=cache"]
    nodes = [Started([*words, *places], folder) for folder in folders]
    assert [node.ended() for node in nodes] == [2, 2], [node.output for node in nodes]
    lines = [line for node in nodes for line in node.output.splitlines() if "dwt-train: " in line]
    assert len(lines) == 2, lines
    assert any("has text" in line and "make all nodes alike" in line for line in lines)
    assert any("a rank of another node has ended" in line for line in lines)


@pytest.mark.slow
def test_a_job_that_is_preempted_comes_back(text: Path, tmp_path: Path, alone: list[float]) -> None:
    """In submitit's local executor, which starts a task again as SLURM does."""
    words = [*elsewhere(text, tmp_path), "train.checkpoint_every=1", *SLURM, "launch.device=cpu"]
    door = Started([*words, "launch.executor=local"], tmp_path)
    door.wait_until(lambda: list(tmp_path.glob("runs/*/checkpoints/step-*")))
    (controller,) = children(door.pid)
    (task,) = children(controller)
    os.kill(task, signal.SIGUSR2)
    assert door.ended() == 0, door.output
    assert f"job {controller}: running" in door.output and "record: " in door.output
    (log,) = tmp_path.glob("runs/slurm/*_log.out")
    assert "student: going on" in log.read_text()
    assert losses(tmp_path / "runs") == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("executor", ["local", pytest.param("debug", marks=pytest.mark.slow)])
def test_what_a_failed_job_says_is_passed_on(text: Path, tmp_path: Path, executor: str) -> None:
    words = [*elsewhere(text, tmp_path), *SLURM, "launch.device=cuda"]
    done = dwt_train(*words, f"launch.executor={executor}", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    (line,) = but_warnings(done.stderr)
    assert line.startswith("dwt-train: launch.device=cuda: torch sees no CUDA device")


def test_without_slurm_there_is_no_job(text: Path, tmp_path: Path) -> None:
    words = [*elsewhere(text, tmp_path), *SLURM, "launch.device=cpu"]
    done = dwt_train(*words, cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 2
    (line,) = but_warnings(done.stderr)
    assert line.startswith("dwt-train: launch.executor=slurm: there is no sbatch on this machine")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["teacher=none", "objective=[logits,hidden]", "optim=adamw"],
        ["data=wikitext", "alpha=overtake", "launch=torchrun", "launch.gpus=2", "parallel=fsdp"],
        ["teacher=several", "teacher.members=[small,virtual]", "remap=random"],
        ["data@teacher.data=files", "teacher.data.path=text", "remap=ligo", "select=confident"],
    ],
    ids=str,
)
def test_a_run_travels_as_text(composed: "object", words: list[str]) -> None:
    run: Run = composed(*words)  # type: ignore[operator]
    assert packing.unpacked(packing.packed(run)) == run
