"""Real wandb as a reader of records: what it sends, and that nothing there can hurt a run.

The runs here are folders written by hand; W&B is in the reader's process alone, so that a case
costs one interpreter. No case waits for a clock: it waits for what has to happen.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dwt_cli.base import atomic
from dwt_cli.base.home import for_a_shell
from dwt_cli.config import files
from dwt_cli.config.check import check
from dwt_cli.config.compose import runs_of
from dwt_cli.track import dashboard as parent
from dwt_cli.track import wandb as reader
from dwt_cli.track.dashboard import Dashboard
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.track.options import Entry, NoTracker, Wandb
from tests.track.server import Server, closed_port, serving

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef0123456789abcdef01234567"
IDENTITY = "0123456789abcdef"
CHOICES = {"teacher": "weak", "alpha": "wsd", "optim": "adamw"}
CONFIG = {"seed": 3, "choices": CHOICES}
PATIENCE_S = 120.0  # for something that has to happen, on a machine that does much else


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Leave nothing of this machine's W&B settings, and time for W&B to load on a busy one."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(reader, "LOCAL_S", PATIENCE_S)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a server that answers all the time it needs."""
    monkeypatch.setattr(reader, "SERVER_S", PATIENCE_S)
    monkeypatch.setattr(parent, "FINISH_S", PATIENCE_S)


class Run:
    """A run directory as a training writes it."""

    def __init__(self, place: Path, name: str = "a run") -> None:
        self.folder = place / f"{name}-{IDENTITY}"
        self.folder.mkdir(parents=True)
        self.said: list[str] = []
        (self.folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        self.log = MetricsLog(self.folder / "metrics.jsonl", every=1)

    def open(self, **options: Any) -> Dashboard:
        entry = Entry(self.folder, IDENTITY, "a run", CONFIG)
        return Wandb(**options).open(entry, self.said.append)

    def train(self, start: int, stop: int) -> None:
        """Go on after the checkpoint of step ``start``, to the step ``stop``."""
        self.log.resumed(start)
        for step in range(start + 1, stop + 1):
            self.log.stepped(step, step / 10, {"hard_loss": 1 / step, "teacher_loss": float("nan")})
        self.log.evaluated(stop, {"loss": 0.5})

    def end(self, *samples: str) -> None:
        Image.new("RGB", (8, 8)).save(self.folder / "curves.png")
        (self.folder / "model").mkdir()
        (self.folder / "model" / "model.safetensors").write_bytes(bytes(1000))
        facts: dict[str, Any] = {
            "student": {"heldout": {"loss": 0.5}},
            "cost": {"student_flops": 7},
        }
        facts |= {"teacher": {"heldout": {"loss": 0.7}}, "samples": samples}
        atomic.write_json(self.folder / "summary.json", facts)

    def evaluate(self) -> None:
        score = {"measure": "glue", "metric": "accuracy", "stderr": None, "num_seeds": 1}
        found = [{"moment": "score", "task": "rte", "value": 0.75, **score}]
        atomic.write_json(self.folder / "scores.json", {"scores": found})

    def records(self, prefix: str) -> list[Path]:
        """W&B's own files of all sessions."""
        return sorted(self.folder.glob(f"wandb/{prefix}-2*/*.wandb"))

    def state(self) -> dict[str, Any]:
        return reader.read_state(self.folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def until(happened: Callable[[], Any]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.05)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or is a zombie that waits for its parent."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def processes_of_wandb(pid: int) -> list[int]:
    """The processes that W&B has started for the process ``pid``."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"--pid" in words and words[words.index(b"--pid") + 1] == str(pid).encode():
                found.append(int(place.name))
    return found


def type_in(command: str, **environment: str) -> str:
    """What a person's shell prints for a command that a run has named."""
    for program in ("python", "wandb"):
        if command.startswith(f"{program} "):
            start = sys.executable if program == "python" else f"{sys.executable} -m wandb"
            command = command.replace(program, start, 1)
    done = subprocess.run(
        command,
        shell=True,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return done.stdout + done.stderr


def in_order(server: Server, key: str) -> list[int]:
    return [row["step"] for row in server.rows if key in row]


def assert_key_is_nowhere(run: Run) -> None:
    assert not any(KEY in line for line in run.said)
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


# ---- nothing wrong


@pytest.mark.slow
def test_a_run_and_its_resumption_are_one_run_online(
    run: Run, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving("good") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        hooks = signal.getsignal(signal.SIGINT), sys.excepthook, sys.exit
        with run.open(group="a group", tags=["mine"]) as dashboard:
            run.train(0, 6)
            until(lambda: run.state()["opened"])
            assert dashboard.finish() is None
        assert run.state()["sent"] == [6, True]
        assert server.exit_codes == [1]  # it was interrupted
        assert (signal.getsignal(signal.SIGINT), sys.excepthook, sys.exit) == hooks
        assert "wandb" not in sys.modules

        with run.open(group="a group", tags=["mine"]):
            run.train(4, 10)  # from the checkpoint of step 4
            run.end()
        assert run.said == []
        assert server.exit_codes == [1, 0]
        assert in_order(server, "train/hard_loss") == list(range(1, 11))
        assert in_order(server, "heldout/loss") == [6, 10]
        assert len(in_order(server, "curves")) == 1
    losses = [row["train/hard_loss"] for row in server.rows if "train/hard_loss" in row]
    assert losses == [1 / step for step in range(1, 11)]
    assert server.summary["loss"] == 0.5
    assert server.summary["student_flops"] == 7
    assert server.summary["teacher_heldout_loss"] == 0.7
    assert server.run["name"] == IDENTITY
    assert server.run["groupName"] == "a group"
    assert server.run["tags"] == ["mine", "teacher=weak", "alpha=wsd"]
    assert json.loads(server.run["config"])["seed"]["value"] == 3
    assert run.records("run") and not run.records("offline-run")
    assert_key_is_nowhere(run)


@pytest.mark.slow
def test_offline_sessions_are_one_run_that_one_command_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "with a space")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for start, stop in ((0, 6), (4, 10)):
        with run.open(log_model=True) as dashboard:
            run.train(start, stop)
            if stop == 10:
                run.end("One | two | three")
                run.evaluate()
            command = dashboard.finish()
    assert command == f"wandb sync {for_a_shell(run.folder / 'wandb')}/offline-run-*"
    assert run.said == []
    first, second = run.records("offline-run")
    assert b"hard_loss" in first.read_bytes() and b"hard_loss" in second.read_bytes()
    assert b"model.safetensors" in second.read_bytes() or b'"model"' in second.read_bytes()
    assert list(second.parent.glob("files/media/images/curves*.png"))
    (table,) = second.parent.glob("files/media/table/scores*.json")
    (row,) = json.loads(table.read_text())["data"]
    assert row == ["score", "glue", "rte", "accuracy", 0.75, None, 1]
    (table,) = second.parent.glob("files/media/table/samples*.json")
    assert json.loads(table.read_text())["data"] == [["One", "two | three"]]
    assert b"rte/accuracy" in second.read_bytes() and b"student_flops" in second.read_bytes()
    monkeypatch.delenv("WANDB_MODE")
    assert "2 run" in type_in(f"{command} --dry-run")
    for record in (first, second):  # as wandb marks what it has sent
        record.with_suffix(".wandb.synced").touch()
    assert reader.unsent(run.folder) is None


@pytest.mark.slow
def test_a_run_that_no_tracker_watched_is_sent_later(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry(run.folder, IDENTITY, "a run", CONFIG)
    with NoTracker().open(entry, run.said.append) as dashboard:
        run.train(0, 10)
        assert dashboard.finish() is None
    run.end()
    assert not (run.folder / "wandb").exists()
    with serving("good") as server:
        command = f"python -m dwt_cli.track.wandb {for_a_shell(run.folder)}"
        printed = type_in(command, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        assert in_order(server, "train/hard_loss") == list(range(1, 11))
        assert server.exit_codes == [0]
    assert server.run["name"] == IDENTITY
    assert server.run["displayName"] == "a run"
    assert server.summary["loss"] == 0.5
    assert "not been sent" not in printed
    assert_key_is_nowhere(run)


def test_a_mode_that_there_is_not_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "foo")
    with run.open() as dashboard:
        assert dashboard.finish() is None
    (line,) = run.said
    assert "WANDB_MODE=foo is none of online, offline, disabled" in line


def test_disabled_means_that_nothing_is_started(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with run.open() as dashboard:
        assert dashboard.finish() is None
    assert not (run.folder / "wandb").exists()
    assert run.said == []


# ---- the server

TROUBLES = {
    "no key": "No API key",
    "a key that is none": "invalid",
    "a key that the server refuses": "401",
    "a key in netrc": "refused|deadline",
    "no server": "refused|deadline",
    "a server that hangs": "deadline",
    "a server that fails": "500|deadline",
}


@pytest.fixture(scope="module")
def in_trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Run]]:
    """One run with each trouble, all followed at the same time."""
    place = tmp_path_factory.mktemp("trouble")
    runs = {name: Run(place, name.replace(" ", "_")) for name in TROUBLES}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as servers:
        patch.setattr(reader, "LOCAL_S", PATIENCE_S)
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("HOME", str(place))
        patch.setenv("NO_PROXY", "127.0.0.1")
        closed = servers.enter_context(closed_port())
        netrc = place / "netrc"
        netrc.write_text(f"machine {closed[7:]}\n login user\n password {KEY}\n")
        netrc.chmod(0o600)
        moods = {"a server that hangs": "hanging", "a server that fails": "500"}
        moods["a key that the server refuses"] = "401"
        dashboards = {}
        for name, run in runs.items():
            patch.setenv("NETRC", str(netrc) if name == "a key in netrc" else os.devnull)
            patch.setenv("WANDB_API_KEY", "not a key" if name == "a key that is none" else KEY)
            if name in ("no key", "a key in netrc"):
                patch.delenv("WANDB_API_KEY")
            mood = moods.get(name)
            url = servers.enter_context(serving(mood)).url if mood else closed
            patch.setenv("WANDB_BASE_URL", url)
            dashboards[name] = run.open()
            run.train(0, 3)
        commands = {name: dashboard.finish() for name, dashboard in dashboards.items()}
        for name, run in runs.items():
            run.said.append(commands[name] or "")
        yield runs


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_cannot_be_online_is_recorded_offline(
    in_trouble: Mapping[str, Run], trouble: str
) -> None:
    run = in_trouble[trouble]
    reason, command = run.said
    assert reason.startswith("W&B: recorded offline (")
    assert re.search(TROUBLES[trouble], reason)
    assert "not a key" not in reason
    assert command == f"wandb sync ~/{run.folder.name}/wandb/offline-run-*"  # HOME was around it
    (record,) = run.records("offline-run")
    assert b"hard_loss" in record.read_bytes()
    assert not run.records("run"), "the failed start left a folder"
    assert run.state()["sent"] == [3, True]
    assert_key_is_nowhere(run)


@pytest.mark.slow
def test_a_server_that_stops_answering_gets_its_seconds_and_the_command_sends_the_rest(
    run: Run, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent, "FINISH_S", 1.0)
    with serving("good") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with run.open() as dashboard:
            process = dashboard._process
            assert process is not None
            until(lambda: run.state()["opened"])
            assert processes_of_wandb(process.pid)
            server.mood = "hanging"
            run.train(0, 10)
            run.end()
            command = dashboard.finish()
        assert process.returncode == -signal.SIGKILL
        until(lambda: not processes_of_wandb(process.pid))
        assert command == f"python -m dwt_cli.track.wandb {for_a_shell(run.folder)}"
        assert server.rows == []
        server.mood = "good"
        type_in(command)
        assert in_order(server, "train/hard_loss") == list(range(1, 11))
        assert server.exit_codes[-1] == 0
    assert reader.unsent(run.folder) is None


# ---- this machine


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_reader_that_hangs_or_dies_holds_up_nothing(
    run: Run, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LOCAL_S", 0.0)
    monkeypatch.setattr(parent, "FINISH_S", 0.5)
    with run.open() as dashboard:
        process = dashboard._process
        assert process is not None
        os.kill(process.pid, how)
        run.train(0, 10)
        command = dashboard.finish()
    assert command == f"python -m dwt_cli.track.wandb {for_a_shell(run.folder)}"
    assert process.returncode == -signal.SIGKILL


def test_ctrl_c_while_the_end_waits_ends_the_reader_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = run.open()
    process = dashboard._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)

    def press(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", press)
    with pytest.raises(KeyboardInterrupt):
        dashboard.finish()
    assert process.returncode == -signal.SIGKILL


def test_a_folder_that_cannot_be_made_is_reported(run: Run) -> None:
    (run.folder / "wandb").write_text("a file where the folder should be")
    with run.open() as dashboard:
        assert dashboard.finish() is None
    (line,) = run.said
    assert "nothing is sent" in line


def test_a_disk_that_fills_up_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # A limit on the size of files stands in for the disk.
    run.train(0, 3000)
    done = subprocess.run(
        [sys.executable, "-m", "dwt_cli.track.wandb", str(run.folder)],
        env={**os.environ, "WANDB_MODE": "offline"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert not run.state()["finished"]
    assert "python -m dwt_cli.track.wandb" in done.stdout


TRAINS = """
import sys, time
from pathlib import Path
from dwt_cli.track.options import Entry, Wandb

folder = Path(sys.argv[1])
with Wandb().open(Entry(folder, "0123456789abcdef", "a run", {}), print) as dashboard:
    print(dashboard._process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_when_the_run_is_killed_the_reader_sends_what_there_is_and_ends(
    run: Run, how: signal.Signals
) -> None:
    temporary = Path(tempfile.mkdtemp())  # short enough for a socket
    with subprocess.Popen(
        [sys.executable, "-c", TRAINS, str(run.folder)],
        env=os.environ | {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as training:
        assert training.stdout is not None
        pid = int(training.stdout.readline())
        run.train(0, 10)
        until(lambda: run.state()["opened"])
        os.killpg(training.pid, how)  # as a terminal sends Ctrl-C
        printed, _ = training.communicate(timeout=PATIENCE_S)
    until(lambda: has_ended(pid) and not processes_of_wandb(pid))
    assert run.state()["sent"] == [10, True]
    assert run.state()["finished"]
    assert ("wandb sync" in printed) == (how == signal.SIGINT)
    assert not (run.folder / "wandb" / "tmp").exists()
    assert not list(temporary.glob("*wandb-*"))
    shutil.rmtree(temporary)


# ---- what needs no process


def test_a_tail_yields_whole_lines_once_and_begins_anew_with_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = reader.Tail(path)
    assert list(tail.rows()) == []
    path.write_text('{"step": 1}\n{"step":')
    assert list(tail.rows()) == [{"step": 1}]
    with path.open("a") as file:
        file.write(" 2}\n")
    assert list(tail.rows()) == [{"step": 2}]
    assert list(tail.rows()) == []
    atomic.write_text(path, '{"step": 1}\n')
    assert list(tail.rows()) == [{"step": 1}]


@pytest.mark.slow
def test_a_sweep_of_wandb_s_is_commands_of_ours() -> None:
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution as validated
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    file = ROOT / "sweeps" / "wandb.yaml"
    sweep = validated(yaml.safe_load(file.read_text(encoding="utf-8")))  # as `wandb sweep` does
    assert sweep["metric"]["name"] == "heldout/loss"
    for end in (0, -1):
        ends = {
            name: {"value": of.get("values", [of.get("min"), of.get("max")])[end]}
            for name, of in sweep["parameters"].items()
        }
        words = create_sweep_command_args({"args": ends})["args_no_hyphens"]
        program, given, *more = sweep["command"]
        assert (program, given, sweep["program"]) == (
            "${program}",
            "${args_no_hyphens}",
            "dwt-train",
        )
        (run,), _ = runs_of([*words, *more])
        check(run)
    assert "wandb" not in files.sweeps()


def test_names_hold_only_what_wandb_takes() -> None:
    entry = Entry(Path("x"), IDENTITY, "n" * 200, CONFIG)
    about = reader.about(entry, Wandb(project="a/b\\c#d?e%f:g", tags=["t" * 100]))
    assert about["project"] == "a-b-c-d-e-f-g"
    assert len(about["name"]) == 128
    assert about["tags"] == ["t" * 64, "teacher=weak", "alpha=wsd"]
    alone = Entry(Path("x"), IDENTITY, "n", {"choices": {"teacher": "none", "alpha": "decay"}})
    assert reader.about(alone, Wandb())["tags"] == ["teacher=none"]


def test_labels_of_a_study_leave_a_group_of_ones_own() -> None:
    assert Wandb(tags=["a"]).labelled("study", ["b"]) == Wandb(group="study", tags=["a", "b"])
    assert Wandb(group="mine").labelled("study", []).group == "mine"
    assert NoTracker().labelled("study", ["b"]) == NoTracker()


def test_errors_are_one_line_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short secret")
    assert reader.one_line(ValueError(f"no {KEY}, no short secret\nmore")) == "no ***, no *** more"
    assert reader.one_line(ValueError()) == "ValueError"
