"""The W&B room against real wandb: what it records, and that nothing there can hurt a run.

Every case runs in a process of its own, because wandb keeps its state for the whole process.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef0123456789abcdef01234567"
SLACK_S = 1.5  # for a machine that does other things at the same time

# What each case runs: `case` is given `tracker()`, which starts a tracker and notes the time.
CHILD = """
import json, os, resource, signal, sys, threading, time
from pathlib import Path

from dwt_cli.track import wandb as room

told, facts = [], {}
folder = Path(sys.argv[1])


def tracker(start_timeout_s=2.0, run_id="sweep/a:1"):
    begin = time.monotonic()
    made = room.WandbTracker.start(
        folder, "dwt", None, "group", ["tag"], "a name", run_id, {"lr": 1e-3}, start_timeout_s,
        say=told.append,
    )
    facts["start_s"] = time.monotonic() - begin
    return made


def finish(made):
    begin = time.monotonic()
    made.finish({"best": 0.5})
    facts["finish_s"] = time.monotonic() - begin


def report(made):
    print(json.dumps(facts | {"told": told, "sync": made.sync_command()}), flush=True)


"""

SIMPLE = """
run = tracker()
for step in range(20):
    run.log(step, {"loss": 1.0})
finish(run)
report(run)
"""


@dataclass
class Outcome:
    """What a child reported, with the time that its whole process took."""

    start_s: float = 0.0
    finish_s: float = 0.0
    told: list[str] = field(default_factory=list)
    sync: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    process_s: float = 0.0
    output: str = ""


def run_child(folder: Path, case: str, **environment: str) -> Outcome:
    """Run `case` with nothing of this machine's W&B settings; WANDB_* as in `environment`."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and k != "NETRC"}
    clean |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"} | environment
    begin = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD + case, str(folder)],
        env=clean,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = child.stdout + child.stderr
    reports = [line for line in child.stdout.splitlines() if line.startswith("{")]
    assert reports, output
    facts = json.loads(reports[-1])
    known = {
        name: facts.pop(name) for name in ("start_s", "finish_s", "told", "sync") if name in facts
    }
    assert not any(home.rglob("*")), "files outside the run's folder"
    return Outcome(
        **known,
        more=facts,
        exit_code=child.returncode,
        process_s=time.monotonic() - begin,
        output=output,
    )


def pieces(folder: Path, prefix: str) -> list[Path]:
    """The record files of all sessions."""
    return sorted(folder.glob(f"wandb/{prefix}-2*/*.wandb"))


def assert_key_is_nowhere(folder: Path, outcome: Outcome) -> None:
    assert KEY not in outcome.output
    holders = [p for p in folder.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert holders == []


@pytest.fixture(scope="module")
def normal_start_s(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that a start takes here when nothing is wrong, the import of wandb included."""
    folder = tmp_path_factory.mktemp("normal") / "run"
    return run_child(folder, SIMPLE, WANDB_MODE="offline").start_s


# ---- a server


class Server(ThreadingHTTPServer):
    """As much of a W&B server as one run needs. `mood` may change at any time.

    "good" answers, "500" answers with that, "probe-only" answers a first greeting and then hangs.
    """

    daemon_threads = True

    def __init__(self, mood: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mood = mood
        self.rows: list[dict[str, Any]] = []
        self.complete = False
        self.stopped = False
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""

    def reply(self, path: str, body: bytes) -> dict[str, Any]:
        if "file_stream" in path:
            stream = json.loads(body)
            history = stream.get("files", {}).get("wandb-history.jsonl", {"content": []})
            self.rows += [json.loads(line) for line in history["content"]]
            self.complete = self.complete or stream.get("complete", False)
            return {"stopped": self.stopped}
        if path != "/graphql":
            return {}
        query = json.loads(body)
        values = query.get("variables") or {}
        project = {"id": "P", "name": "dwt", "entity": {"id": "E", "name": "team"}}
        if "upsertBucket" in query["query"]:
            bucket = {"id": "R", "name": values["name"], "config": "{}", "project": project}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if query.get("operationName") == "RunResumeStatus":
            return {"data": {"model": project | {"bucket": None}}}
        if query.get("operationName") == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/up/{n}"} for n in values["files"]]
            made = {"runID": "R", "uploadHeaders": [], "files": files}
            return {"data": {"createRunFiles": made}}
        return {"data": {}}


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.server.mood == "probe-only" and b"{__typename}" not in body:
            self.server.closing.wait()
            return
        answer = json.dumps(self.server.reply(self.path, body)).encode()
        self.send_response(500 if self.server.mood == "500" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_PUT(self) -> None:
        self.do_POST()

    def do_HANG(self) -> None:
        """The test's own request: from now on, answer nothing but a greeting."""
        self.server.mood = "probe-only"
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(mood: str) -> Iterator[Server]:
    server = Server(mood)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


@contextmanager
def silent_port() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def closed_port() -> Iterator[str]:
    """A port where nothing listens: bound, so that nobody else takes it meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


@contextmanager
def bad_url(trouble: str) -> Iterator[str]:
    if trouble == "silent":
        with silent_port() as url:
            yield url
    elif trouble == "closed":
        with closed_port() as url:
            yield url
    else:
        with serving(trouble) as server:
            yield server.url


# ---- nothing wrong


def test_offline_run_and_its_resumption_are_one_run_that_one_command_sends(tmp_path: Path) -> None:
    folder = tmp_path / "run with a space"
    folder.mkdir()
    outcome = run_child(
        folder,
        """
from PIL import Image

Image.new("RGB", (8, 8)).save(folder / "curve.png")
(folder / "student").mkdir()
(folder / "student" / "weights.bin").write_bytes(bytes(1000))
for session in range(2):
    run = tracker()
    for step in range(10 * session, 10 * session + 10):
        run.log(step, {f"loss_of_session_{session}": 1.0})
    run.figure("curve", folder / "curve.png")
    run.table("scores", ["task", "value"], [["RTE", 0.5]])
    run.model(folder / "student", "student")
    finish(run)
facts["threads"] = [t.name for t in threading.enumerate() if "wandb" in t.name.lower()]
facts["environment"] = [name for name in os.environ if name.startswith("WANDB")]
report(run)
""",
        WANDB_MODE="offline",
    )
    assert outcome.told == []
    assert outcome.finish_s < 5
    assert outcome.more["environment"] == ["WANDB_MODE"]
    records = pieces(folder, "offline-run")
    assert [p.name for p in records] == ["run-sweep-a-1.wandb"] * 2
    for session, record in enumerate(records):
        assert f"loss_of_session_{session}".encode() in record.read_bytes()
        assert list(record.parent.glob("files/media/images/curve*.png"))
        (table,) = record.parent.glob("files/media/table/scores*.json")
        assert json.loads(table.read_text())["data"] == [["RTE", 0.5]]
        assert b"student" in record.read_bytes()

    assert outcome.sync is not None
    listed = subprocess.run(
        outcome.sync.replace("wandb sync", f"{sys.executable} -m wandb sync --dry-run", 1),
        shell=True,
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Would sync 2 run(s)" in listed.stdout + listed.stderr

    # wandb marks what it has sent; once both pieces are, there is nothing left to send.
    for record in records:
        record.with_suffix(".wandb.synced").touch()
    from dwt_cli.track.wandb import WandbTracker

    assert WandbTracker(folder, "sweep/a:1", print).sync_command() is None


def test_online_run_is_sent_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with serving("good") as server:
        outcome = run_child(
            folder,
            """
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], sys.exit, sys.excepthook
facts["imported"] = "wandb" in sys.modules
run = tracker(start_timeout_s=5.0)
for step in range(20):
    run.log(step, {"loss": 1.0})
after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], sys.exit, sys.excepthook
facts["same"] = before == after
finish(run)
report(run)
""",
            WANDB_BASE_URL=server.url,
            WANDB_API_KEY=KEY,
        )
    assert outcome.told == []
    assert outcome.sync is None
    assert outcome.more == {"imported": False, "same": True}
    assert server.complete
    assert [row["step"] for row in server.rows] == list(range(20))
    assert {row["loss"] for row in server.rows} == {1.0}
    assert pieces(folder, "run")
    assert not pieces(folder, "offline-run")
    assert_key_is_nowhere(folder, outcome)


def test_key_in_netrc_counts_as_a_key(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    with closed_port() as url:
        netrc.write_text(f"machine {url.removeprefix('http://')}\n login user\n password {KEY}\n")
        netrc.chmod(0o600)
        outcome = run_child(tmp_path / "run", SIMPLE, WANDB_BASE_URL=url, NETRC=str(netrc))
    assert "cannot be reached" in outcome.told[0]
    assert_key_is_nowhere(tmp_path / "run", outcome)


def test_no_key_means_offline_and_says_how_to_send(tmp_path: Path) -> None:
    outcome = run_child(tmp_path / "run", SIMPLE)
    assert len(outcome.told) == 1
    assert "no key" in outcome.told[0]
    assert outcome.sync is not None
    assert outcome.sync in outcome.told[0]
    assert len(pieces(tmp_path / "run", "offline-run")) == 1


def test_key_that_cannot_be_one_means_offline(tmp_path: Path) -> None:
    outcome = run_child(tmp_path / "run", SIMPLE, WANDB_API_KEY="not a key")
    assert len(outcome.told) == 1
    assert "the key cannot be used" in outcome.told[0]
    assert "not a key" not in outcome.output
    assert len(pieces(tmp_path / "run", "offline-run")) == 1


def test_stop_on_the_web_page_is_told_and_interrupts_nothing(tmp_path: Path) -> None:
    with serving("good") as server:
        server.stopped = True
        outcome = run_child(
            tmp_path / "run",
            """
import asyncio
from wandb.sdk.lib import run_stopping

run_stopping._SLEEP = lambda seconds: asyncio.sleep(0.1)  # in place of 15 s between two looks
run = tracker(start_timeout_s=5.0)
deadline = time.monotonic() + 10
while not told and time.monotonic() < deadline:
    run.log(0, {"loss": 1.0})
    time.sleep(0.05)
finish(run)
report(run)
""",
            WANDB_BASE_URL=server.url,
            WANDB_API_KEY=KEY,
        )
    assert outcome.exit_code == 0, outcome.output
    assert len(outcome.told) == 1
    assert "stop was pressed" in outcome.told[0]


def test_disabled_means_that_wandb_is_not_even_imported(tmp_path: Path) -> None:
    case = SIMPLE.replace("report(run)", 'facts["imported"] = "wandb" in sys.modules\nreport(run)')
    outcome = run_child(tmp_path / "run", case, WANDB_MODE="disabled", WANDB_API_KEY=KEY)
    assert (outcome.told, outcome.sync, outcome.more) == ([], None, {"imported": False})
    assert not (tmp_path / "run").exists()


# ---- the server


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("silent", "does not answer"),
        ("closed", "cannot be reached"),
        ("500", "answers 500"),
        ("probe-only", "did not take the run"),
    ],
)
def test_bad_server_delays_the_start_by_the_limit_at_most(
    tmp_path: Path, normal_start_s: float, trouble: str, words: str
) -> None:
    folder = tmp_path / "run"
    with bad_url(trouble) as url:
        outcome = run_child(folder, SIMPLE, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert outcome.start_s < normal_start_s + 2.0 + SLACK_S
    assert outcome.finish_s < 3
    assert outcome.process_s < normal_start_s + 2.0 + 3 + 2 * SLACK_S
    assert len(outcome.told) == 1
    assert words in outcome.told[0]
    assert outcome.sync is not None
    assert outcome.sync in outcome.told[0]
    (record,) = pieces(folder, "offline-run")
    assert b"loss" in record.read_bytes()
    assert not pieces(folder, "run"), "the failed start left a folder"
    assert_key_is_nowhere(folder, outcome)


def test_server_that_stops_answering_bounds_the_finish(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with serving("good") as server:
        outcome = run_child(
            folder,
            """
import urllib.request

room.FINISH_S = 2.0
run = tracker(start_timeout_s=5.0)
hang = urllib.request.Request(os.environ["WANDB_BASE_URL"] + "/hang", method="HANG")
urllib.request.urlopen(hang).read()
for step in range(20):
    run.log(step, {"loss": 1.0})
finish(run)
report(run)
""",
            WANDB_BASE_URL=server.url,
            WANDB_API_KEY=KEY,
        )
    assert 1.5 < outcome.finish_s < 2.0 + 2.0 + SLACK_S
    assert len(outcome.told) == 1
    (record,) = pieces(folder, "run")
    assert outcome.sync == f"wandb sync --include-online {record.parent}"
    assert outcome.sync in outcome.told[0]
    assert b"loss" in record.read_bytes()


# ---- this machine


def test_folder_that_cannot_be_made_means_that_nothing_is_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.write_text("a file where the folder should be")
    outcome = run_child(folder, SIMPLE, WANDB_MODE="offline")
    assert len(outcome.told) == 1
    assert "nothing is recorded" in outcome.told[0]
    assert outcome.sync is None
    assert outcome.start_s < 1
    assert outcome.finish_s < 1


def test_disk_that_fills_up_along_the_way_is_told(tmp_path: Path) -> None:
    # A limit on the size of files stands in for the disk: like it, it fails W&B's writes alone.
    outcome = run_child(
        tmp_path / "run",
        """
run = tracker()
service = run._service._connection._proc._process.pid
resource.prlimit(service, resource.RLIMIT_FSIZE, (40_000, 40_000))
for step in range(3000):
    run.log(step, {"loss": step / 7})
finish(run)
report(run)
""",
        WANDB_MODE="offline",
    )
    assert len(outcome.told) == 1
    assert "not everything is sent or recorded" in outcome.told[0]
    assert outcome.sync is not None
    assert outcome.sync in outcome.told[0]
    assert outcome.finish_s < 5


def test_process_of_wandb_that_dies_is_told_once_and_training_goes_on(tmp_path: Path) -> None:
    outcome = run_child(
        tmp_path / "run",
        """
run = tracker()
run.log(0, {"loss": 1.0})
time.sleep(0.3)
os.kill(run._service._connection._proc._process.pid, signal.SIGKILL)
time.sleep(0.3)
for step in range(1, 30):
    run.log(step, {"loss": 1.0})
    time.sleep(0.01)
facts["told_while_training"] = len(told)
finish(run)
report(run)
""",
        WANDB_MODE="offline",
    )
    assert outcome.more == {"told_while_training": 1}
    assert len(outcome.told) == 1
    assert outcome.finish_s < 5
    assert outcome.exit_code == 0
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("end", ["finish", "exit"])
def test_process_of_wandb_that_hangs_holds_up_neither_the_run_nor_its_end(
    tmp_path: Path, end: str
) -> None:
    outcome = run_child(
        tmp_path / "run",
        """
room.FINISH_S = room._TEARDOWN_S = 1.0
run = tracker()
os.kill(run._service._connection._proc._process.pid, signal.SIGSTOP)
begin = time.monotonic()
for step in range(5000):
    run.log(step, {"loss": 1.0})
facts["logs_s"] = time.monotonic() - begin
"""
        + ("finish(run)\nreport(run)" if end == "finish" else "report(run)"),
        WANDB_MODE="offline",
    )
    assert outcome.more["logs_s"] < 1.0
    assert outcome.process_s < 10
    if end == "finish":
        assert len(outcome.told) == 1
        assert outcome.finish_s < 1.0 + 1.0 + SLACK_S


def test_run_that_is_never_finished_ends_with_the_program(tmp_path: Path) -> None:
    outcome = run_child(
        tmp_path / "run",
        """
run = tracker()
run.log(0, {"loss": 1.0})
report(run)
sys.exit(3)
""",
        WANDB_MODE="offline",
    )
    assert outcome.exit_code == 3
    assert outcome.process_s < 10
    (record,) = pieces(tmp_path / "run", "offline-run")
    assert b"loss" in record.read_bytes()


@pytest.mark.parametrize(
    ("given", "taken"),
    [("a/b\\c#d?e%f:g", "a-b-c-d-e-f-g"), ("plain_id-1.2", "plain_id-1.2"), ("///", "run")],
)
def test_ids_hold_only_what_wandb_takes(given: str, taken: str) -> None:
    from dwt_cli.track.wandb import WandbTracker

    assert WandbTracker(Path("x"), given, print).run_id == taken


def test_long_ids_stay_apart() -> None:
    from dwt_cli.track.wandb import WandbTracker

    one, other = (WandbTracker(Path("x"), "a" * 200 + end, print).run_id for end in "bc")
    assert one != other
    assert len(one) <= 100
