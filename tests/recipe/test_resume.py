"""A run is never lost: stopped, killed and damaged at any place, it ends as if nothing had been."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from dwt_cli.cli.runs import listed_runs
from tests.miniature import options, write_text
from tests.processes import Started
from tests.record import metrics

STEPS, TEACHER_STEPS = 60, 30
LONGER = [
    f"scale.max_steps={STEPS}",
    f"scale.teacher_steps={TEACHER_STEPS}",
    "scale.eval_every=12",
    "train.checkpoint_every=4",
    "student.num_layers=2",
    "eval.num_blocks=32",
]


class Place:
    """A root and a cache of their own, and the command that works in them."""

    def __init__(self, folder: Path, text: Path, *choices: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        paths = [f"run.root={folder}/runs", f"run.cache={folder}/cache", f"data.path={text}/text"]
        kept = [o for o in options(text) if not o.startswith(("run.", "data.path="))]
        self.command = [*kept, *LONGER, *paths, *choices]

    def start(self, *more: str) -> Started:
        return Started([*self.command, *more], self.folder)

    @property
    def run(self) -> Path:
        (folder,) = (self.folder / "runs").glob("small-*-seed0-*")
        return folder

    def in_cache(self, pattern: str) -> list[Path]:
        return list((self.folder / "cache").glob(pattern))

    def lines(self) -> list[dict[str, float]]:
        return [x for run in self.folder.glob("runs/small-*-seed0-*") for x in metrics(run)]

    def newest_step(self) -> int:
        return max((line["step"] for line in self.lines()), default=0)

    def checkpoints(self) -> list[Path]:
        return sorted(self.run.glob("checkpoints/step-*"))

    def state(self) -> str:
        return str(json.loads((self.run / "status.json").read_text())["state"])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_text(folder / "text", 150)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Place:
    """The run that nobody interrupts."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), text)
    started = place.start()
    assert started.ended() == 0, started.output
    return place


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    Started.end_all()


@pytest.fixture
def place(tmp_path: Path, text: Path) -> Place:
    return Place(tmp_path / "disturbed", text)


@pytest.fixture
def prepared(place: Place, undisturbed: Place) -> Place:
    """Its corpus and teacher are there already."""
    shutil.copytree(undisturbed.folder / "cache", place.folder / "cache")
    return place


def check_same_end(place: Place, undisturbed: Place, steps: int = STEPS) -> None:
    """Weights, optimizer, counters and metrics to the last bit; the text and the teacher too."""
    assert place.run.name == undisturbed.run.name
    assert place.state() == "finished"
    lines = place.lines()
    assert [x["step"] for x in lines if "train/loss" in x] == list(range(1, steps + 1))
    assert lines == undisturbed.lines()
    last = [p.checkpoints()[-1] for p in (place, undisturbed)]
    assert last[0].name == f"step-{steps:08d}"
    sums = [json.loads((p / "manifest.json").read_text()) for p in last]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert sums[0][name] == sums[1][name], name
    counters = [json.loads((p / "state.json").read_text())["counters"] for p in last]
    for state in counters:
        assert state.pop("elapsed_s") > 0
    assert counters[0] == counters[1]
    for pattern in ("model/model.safetensors", "model/tokenizer.json"):
        assert (place.run / pattern).read_bytes() == (undisturbed.run / pattern).read_bytes()
    for pattern, count in (
        ("corpus/*/train/*.npy", 1),
        ("teacher/*/model/model.safetensors", 1),
        ("teacher/*/snapshots/*/model.safetensors", 5),
    ):
        ours, theirs = (
            {path.relative_to(p.folder): path.read_bytes() for path in p.in_cache(pattern)}
            for p in (place, undisturbed)
        )
        assert ours == theirs and len(ours) == count, pattern
    teachers = [metrics(p.in_cache("teacher/*/")[0]) for p in (place, undisturbed)]
    assert teachers[0] == teachers[1] != []
    facts = [json.loads((p.run / "summary.json").read_text())["student"] for p in
             (place, undisturbed)]  # fmt: skip
    for fact in facts:
        del fact["seconds"]
    assert facts[0] == facts[1]


def resumed_at(output: str, stage: str = "student") -> int:
    """The step that a start went on after; 0 for none."""
    said = [line for line in output.splitlines() if line.startswith(f"{stage}: going on after")]
    return int(said[0].rsplit(" ", 1)[1]) if said else 0


def packing(place: Place) -> bool:
    return bool(place.in_cache("corpus/*.partial/train")) and not place.in_cache(
        "corpus/*.partial/heldout"
    )


def writing(place: Place) -> bool:
    aside = next((place.folder / "runs").glob("small-*-seed0-*/checkpoints/.writing"), None)
    return aside is not None and any(aside.iterdir()) and not (aside / "manifest.json").exists()


def damage(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_killed_in_every_stage(place: Place, undisturbed: Place) -> None:
    draw = random.Random(7)
    started = place.start()
    started.freeze_when(lambda: packing(place))
    started.kill()
    assert packing(place), "killed while the corpus was packed"

    at = draw.randint(6, 20)
    started = place.start()
    started.wait_until(lambda: any(
        len(metrics(path)) >= at for path in place.in_cache("teacher/*.partial")
    ))  # fmt: skip
    started.kill()
    assert place.in_cache("teacher/*.partial/checkpoints/step-*")
    assert not place.in_cache("teacher/*/facts.json")

    started = place.start()
    started.freeze_when(lambda: place.lines() and not place.checkpoints())
    assert 0 < resumed_at(started.output, "teacher") < TEACHER_STEPS
    started.kill()

    started = place.start()
    before = draw.randint(5, 15)
    started.freeze_when(lambda: place.newest_step() >= before and writing(place))
    started.kill()
    assert writing(place), "killed in the middle of a checkpoint"

    executed_again = 0
    for _ in range(2):
        seen = place.newest_step()
        at = seen + draw.randint(4, 11)
        started = place.start()
        started.wait_until(lambda at=at: place.newest_step() >= at)
        started.kill()
        assert 0 < resumed_at(started.output) < STEPS
        executed_again += seen - resumed_at(started.output)
    assert executed_again > 0
    (dead,) = listed_runs(place.folder / "runs")
    assert (dead.state, dead.total, dead.teacher) == ("dead", STEPS, "small")

    older, newest = place.checkpoints()[-2:]
    damage(newest)
    started = place.start()
    assert started.ended() == 0, started.output
    assert (
        f"checkpoint set aside: {newest}/optimizer.safetensors has changed since it was written"
        in started.output
    )
    assert resumed_at(started.output) == int(older.name.removeprefix("step-"))
    check_same_end(place, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_thirty_times_at_random(tmp_path: Path, text: Path) -> None:
    length = ["scale.max_steps=400", "scale.teacher_steps=60"]
    undisturbed = Place(tmp_path / "undisturbed", text, *length)
    assert undisturbed.start().ended() == 0
    place = Place(tmp_path / "disturbed", text, *length)
    draw = random.Random(0)

    def teacher_step() -> int:
        lines = [x for path in place.in_cache("teacher/*/") for x in metrics(path)]
        return max((line["step"] for line in lines), default=0)

    resumptions: dict[str, list[int]] = {"teacher": [], "student": []}
    executed_again = 0
    for _ in range(30):
        seen = {"teacher": teacher_step(), "student": place.newest_step()}
        at = sum(seen.values()) + draw.randint(1, 14)
        started = place.start()
        started.wait_until(lambda at=at: teacher_step() + place.newest_step() >= at, 120)
        time.sleep(draw.uniform(0, 0.1))
        started.kill()
        for stage in seen:
            if step := resumed_at(started.output, stage):
                resumptions[stage].append(step)
                executed_again += seen[stage] - step
    assert len(resumptions["teacher"]) > 1 and len(resumptions["student"]) > 10
    assert max(resumptions["student"]) < 400
    assert executed_again > 30
    started = place.start()
    assert started.ended(600) == 0, started.output
    print(f"resumed at {resumptions}, {executed_again} steps again")
    check_same_end(place, undisturbed, 400)


def test_asked_to_stop_it_writes_a_checkpoint_and_says_how_to_go_on(
    prepared: Place, undisturbed: Place
) -> None:
    place, at = prepared, 3
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)):
        started = place.start(*(["run.fresh=true"] if number == signal.SIGINT else []))
        started.wait_until(lambda at=at: place.newest_step() >= at)
        started.send(number)
        assert started.ended() == code
        step = place.newest_step()
        assert "finishing this step and writing a checkpoint" in started.output
        again = shlex.join(["dwt-train", *place.command])
        assert f"dwt-train: stopped after step {step}; to go on: {again}\n" in started.output
        assert "Traceback" not in started.output
        assert place.checkpoints()[-1].name == f"step-{step:08d}"
        (run,) = listed_runs(place.folder / "runs")
        assert (run.state, run.step) == ("interrupted", step)
        at = step + 3
    export(place, step)
    assert place.start().ended() == 0
    check_same_end(place, undisturbed)


def export(place: Place, step: int) -> None:
    """The model so far, without a step of training."""
    before = {path: path.read_bytes() for path in place.run.glob("checkpoints/*/*")}
    started = place.start("run.export=true")
    assert started.ended() == 0, started.output
    folder = place.run / f"export-step-{step}"
    assert f"model after step {step}: {folder}\n" in started.output
    assert (place.newest_step(), place.state()) == (step, "interrupted")
    assert before == {path: path.read_bytes() for path in place.run.glob("checkpoints/*/*")}
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert model.config.num_hidden_layers == 2
    card = (folder / "README.md").read_text()
    assert f"{step} steps" in card and "trained with a teacher of" in card
    assert (folder / "tokenizer.json").exists()


def test_nothing_to_export_is_one_line(place: Place) -> None:
    started = place.start("run.export=true")
    assert started.ended() == 2
    assert "run.export=true: this run has no checkpoint yet; train first" in started.output
    assert not (place.folder / "runs").exists()


def test_a_second_ctrl_c_stops_now(place: Place) -> None:
    started = place.start("scale.batch_size=20000", "teacher=none")  # steps of many seconds
    started.wait_until(lambda: list(place.folder.glob("runs/*/metrics.jsonl")))
    time.sleep(0.2)  # from there to the first step
    started.send(signal.SIGINT)
    started.wait_until(lambda: "Ctrl-C stops at once" in started.output)
    started.send(signal.SIGINT)
    assert started.ended() == 130
    assert "dwt-train: stopped; to go on: dwt-train" in started.output
    assert "Traceback" not in started.output
    (run,) = listed_runs(place.folder / "runs")
    assert (run.state, run.step) == ("interrupted", None)


@pytest.mark.slow
def test_stopped_before_and_after_the_training(prepared: Place, undisturbed: Place) -> None:
    """While the student is made and looked at for the first time, and while it is saved."""
    place = prepared
    started = place.start()
    started.freeze_when(lambda: re.search(r"teacher +100%", started.output))
    assert not (place.run / "metrics.jsonl").exists()
    started.send(signal.SIGTERM)
    started.send(signal.SIGCONT)
    check_clean_stop(started, place, 143)

    started = place.start()
    saving = place.run / "curves.png"
    started.freeze_when(lambda: saving.exists() and not (place.run / "summary.json").exists())
    started.send(signal.SIGINT)
    started.send(signal.SIGCONT)
    check_clean_stop(started, place, 130)
    assert place.start().ended() == 0
    check_same_end(place, undisturbed)


def check_clean_stop(started: Started, place: Place, code: int) -> None:
    assert started.ended() == code
    assert "dwt-train: stopped; to go on: dwt-train" in started.output
    assert "Traceback" not in started.output
    assert place.state() == "interrupted"


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_while_the_text_is_read(tmp_path: Path, text: Path) -> None:
    place = Place(tmp_path / "disturbed", text, "data=docs", "data.packages=[sympy]")
    command = [word for word in place.command if not word.startswith("data.path=")]
    process = subprocess.Popen(
        [sys.executable, "-m", "dwt_cli.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert any("reading text" in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the group
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "dwt-train: stopped; to go on: dwt-train" in errors
    assert "Traceback" not in output + errors


@pytest.mark.slow
def test_two_at_once(place: Place, undisturbed: Place) -> None:
    """The same command is refused; another run waits for what both need, and takes over."""
    here = socket.gethostname()
    first = place.start()
    first.freeze_when(lambda: packing(place))
    same = place.start()
    other = place.start("seed=1")
    assert same.ended() == 2
    assert f"dwt-train: process {first.pid} on {here} is at work in {place.run}: wait for it, or stop it" in same.output  # noqa: E501  # fmt: skip
    at_corpus = f"waiting for process {first.pid} on {here}, which prepares corpus/"
    other.wait_until(lambda: at_corpus in other.output)
    first.send(signal.SIGCONT)

    first.freeze_when(lambda: place.in_cache("teacher/*.partial/checkpoints/step-*/manifest.json"))
    at_teacher = f"waiting for process {first.pid} on {here}, which prepares teacher/"
    other.wait_until(lambda: at_teacher in other.output)
    assert [run.state for run in listed_runs(place.folder / "runs")] == ["running", "running"]
    first.kill()
    assert other.ended() == 0, other.output
    assert resumed_at(other.output, "teacher") > 0
    again = place.start()
    assert again.ended() == 0, again.output
    assert "teacher: going on" not in again.output
    check_same_end(place, undisturbed)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_no_damage(
    tmp_path: Path, text: Path, prepared: Place, undisturbed: Place
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if _mount(disk, "size=1m").returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        shutil.copytree(prepared.folder / "cache", disk / "cache")
        place = Place(disk, text, "train.keep_checkpoints=50")
        started = place.start()
        assert started.ended() == 2
        (line,) = [x for x in started.output.splitlines() if x.startswith("dwt-train: ")]
        assert line == (
            f"dwt-train: {place.run}/checkpoints cannot be written to (no space left on device); "
            "what was there, earlier checkpoints too, is kept: make room, and the same command "
            "goes on"
        )
        assert "Traceback" not in started.output
        kept = len(place.checkpoints())
        assert kept > 1
        assert _mount(disk, "remount,size=100m").returncode == 0
        started = place.start()
        assert started.ended() == 0, started.output
        assert resumed_at(started.output) > 0
        check_same_end(place, undisturbed)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


def _mount(disk: Path, how: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(disk)], check=False, capture_output=True
    )


@pytest.mark.slow
def test_keys_are_written_nowhere(place: Place) -> None:
    keys = {"WANDB_API_KEY": "0123456789abcdef" * 2 + "deadbeef", "HF_TOKEN": "hf_secretSECRET99"}
    started = Started(
        [*place.command, "tracker=wandb", "scale.max_steps=6", "teacher=none"],
        place.folder,
        WANDB_MODE="offline",
        **keys,
    )
    assert started.ended() == 0, started.output
    assert list(place.folder.glob("runs/*/wandb/offline-run-*/*.wandb"))
    written = [path for path in place.folder.rglob("*") if path.is_file()]
    assert len(written) > 20
    for path in written:
        content = path.read_bytes()
        for name, key in keys.items():
            assert key.encode() not in content, f"{name} in {path}"
