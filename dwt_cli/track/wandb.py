"""Weights & Biases as a reader of the record: ``python -m dwt_cli.track.wandb RUN_DIR``.

Sends what a run directory holds: the settings, metrics.jsonl from where an earlier session came
to, and at the end what summary.json and scores.json have, the figures, and model/ if
``tracker.log_model`` is set. So a run made with ``tracker=none`` is sent later by this command,
and whatever could not be sent is sent by typing it again.

A run starts it with ``--follow SECONDS`` as a process of its own (`dwt_cli.track.dashboard`): it
then reads on until its standard input ends, which is when the run has ended or died. No signal,
hanging server or exit hook of W&B reaches the process that trains.
"""

import argparse
import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwt_cli.base import atomic
from dwt_cli.base.atomic import read_json
from dwt_cli.base.home import for_a_shell, without_home
from dwt_cli.track.metrics import read_settings
from dwt_cli.track.options import NOT_IN_A_PROJECT, Entry, Wandb

if TYPE_CHECKING:
    from wandb import Run

SERVER_S = 4.0
"""Seconds that a server gets to take a followed run, and again to take what is left at its end."""

LOCAL_S = 20.0
"""Seconds that W&B's own process gets, with no network involved."""

MODEL_BYTES_PER_S = 10e6
"""Slowest upload of a model that is waited for at the end."""

ABOUT, STATE, TEMPORARY = "wandb/about.json", "wandb/state.json", "wandb/tmp"
"""Names in a run's folder: of its name and labels (`about`), of how far it is sent (`read_state`),
and of W&B's temporary files while a session is there."""

_POLL_S = 1.0
_COLUMNS = ("moment", "measure", "task", "metric", "value", "stderr", "num_seeds")


def about(entry: Entry, options: Wandb) -> dict[str, Any]:
    """Return the content of `ABOUT`: an entry as W&B takes it."""
    chosen = entry.config.get("choices", {})
    is_alone = chosen.get("teacher") == "none"
    groups = ("teacher", "scale") if is_alone else ("teacher", "alpha", "remap", "scale")
    labels = [f"{group}={chosen[group]}" for group in groups if group in chosen]
    return {
        "id": entry.identity,
        "name": entry.name[:128],
        "project": NOT_IN_A_PROJECT.sub("-", options.project)[:128],
        "entity": options.entity,
        "group": options.group[:128] if options.group else None,
        "tags": [tag[:64] for tag in [*options.tags, *labels] if tag],
        "config": dict(entry.config),
        "model": options.log_model,
        "tables": dict(entry.tables),
        "summary": dict(entry.summary),
    }


def model_seconds(folder: Path, log_model: bool) -> float:
    """Return how long a folder's model may take to upload; 0 where it is not to be sent."""
    files = folder.glob("model/*") if log_model else []
    return sum(file.stat().st_size for file in files) / MODEL_BYTES_PER_S


def read_state(folder: Path) -> dict[str, Any]:
    """Return how far the sessions of a folder have come.

    opened, finished: whether the last session has opened its run, and ended in order. problem: why
    it is not online, or not finished. sent: the last line of metrics.jsonl that an orderly session
    has seen, as [step, whether it is an evaluation]; files: the times of what else was sent.
    """
    never = {"opened": False, "finished": False, "problem": None, "sent": [-1, False]}
    return {**never, "files": {}, **(read_json(folder / STATE) or {})}


def note(folder: Path, **changed: Any) -> None:
    """Change the state of a folder's session."""
    atomic.write_json(folder / STATE, {**read_state(folder), **changed})


def unsent(folder: Path) -> str | None:
    """Return the command that sends what only the disk has, or None if there is nothing."""
    if not read_state(folder)["finished"]:
        return f"python -m dwt_cli.track.wandb {for_a_shell(folder)}"
    pieces = folder.glob("wandb/offline-run-*")
    if all(any(piece.glob("*.wandb.synced")) for piece in pieces):
        return None
    return f"wandb sync {for_a_shell(folder / 'wandb')}/offline-run-*"


def has_key() -> bool:
    """Return whether there is a key for W&B's server, in the environment or in .netrc."""
    from requests.utils import get_netrc_auth

    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth(server))


class Tail:
    """The lines of a metrics file as they are written; begins anew where the file is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.BufferedReader | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines that were written since the last call."""
        if not self._path.exists():
            return
        if self._file is None or not os.path.samestat(
            os.fstat(self._file.fileno()), self._path.stat()
        ):
            self._file = self._path.open("rb")
        while (text := self._file.readline()).endswith(b"\n"):
            yield json.loads(text)
        self._file.seek(-len(text), io.SEEK_CUR)  # half a line, still being written


def send(
    folder: Path, said: Mapping[str, Any], ended: threading.Event, server_s: float | None
) -> None:
    """Send a folder's record until it has ended. said: the content of `ABOUT`.

    server_s: how long a server may take where a run waits for it. Raises what W&B raises when not
    even an offline run can be written, or not all of it can be sent.
    """
    import wandb

    run = _open(folder, said, server_s)
    state = read_state(folder)
    sent, files, tail = state["sent"], state["files"], Tail(folder / "metrics.jsonl")
    while True:
        is_last = ended.is_set()  # asked before reading, so that nothing is missed
        for row in tail.rows():
            # What a resumed training takes a second time is the same again; after a rollback it is
            # not, and the record alone has it.
            if (place := [row["step"], "heldout/loss" in row]) > sent:
                run.log({key: math.nan if value is None else value for key, value in row.items()})
                sent = place
        if is_last:
            break
        ended.wait(_POLL_S)

    def is_new(path: Path) -> bool:
        before = files.get(path.name)
        files[path.name] = path.stat().st_mtime_ns if path.exists() else None
        return before != files[path.name]

    at = {"step": max(sent[0], 0)}
    tables = dict(said["tables"])
    scores = (read_json(folder / "scores.json") or {"scores": []})["scores"]
    if is_new(folder / "scores.json"):
        tables["scores"] = (_COLUMNS, [[score[key] for key in _COLUMNS] for score in scores])
    summary = read_json(folder / "summary.json") or {}
    if is_new(folder / "summary.json") and (samples := summary.get("samples")):
        tables["samples"] = (("given", "written"), [each.split(" | ", 1) for each in samples])
    for name, (columns, rows) in tables.items():
        run.log({name: wandb.Table(list(columns), [list(row) for row in rows]), **at})
    for picture in filter(is_new, sorted(folder.glob("*.png"))):
        run.log({picture.stem: wandb.Image(str(picture)), **at})
    if said["model"] and (folder / "model").is_dir() and is_new(folder / "model"):
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", folder.name)[:128]
        artifact = wandb.Artifact(name, type="model")
        artifact.add_dir(str(folder / "model"), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)
    numbers = {**_numbers(summary, scores), **said["summary"]}
    run.summary.update(numbers)
    log = Path(run.settings.sync_dir) / "logs" / "debug-internal.log"
    run.finish(exit_code=0 if numbers else 1)
    if log.exists() and "failed to save record" in log.read_text(errors="replace"):
        raise OSError(f"{log.parents[1]}: writing failed along the way")  # it tells its log alone
    note(folder, finished=True, sent=sent, files=files)


def _open(folder: Path, said: Mapping[str, Any], server_s: float | None) -> "Run":
    """Open the run, online if a key is set and the server takes it, else offline."""
    import wandb

    finish_s = 0.0 if server_s is None else server_s + model_seconds(folder, said["model"])

    def opened(mode: Any, seconds: float) -> "Run":
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=seconds,
            finish_timeout=finish_s,  # 0: none
            finish_timeout_raises=True,
            stop_fn=lambda: print("stop was pressed on the web page; only Ctrl-C stops a run"),
            # No code, repository or paths of this machine; statistics of the run that is followed.
            save_code=False,
            disable_code=True,
            disable_git=True,
            label_disable=True,
            x_disable_meta=True,
            x_disable_stats=server_s is None,
            x_stats_pid=os.getppid(),
            program="dwt-train",
        )
        named = ("id", "name", "project", "entity", "group", "tags", "config")
        run = wandb.init(
            dir=str(folder),
            resume="allow",
            mode=mode,
            settings=settings,
            **{key: said[key] for key in named},
        )
        # W&B's own count must only grow; the step as a metric may be taken a second time.
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run

    mode, problem = wandb.setup(wandb.Settings(silent=True)).settings.mode, None
    before = set(folder.glob("wandb/run-*"))
    try:
        run = opened(mode, server_s if server_s and mode == "online" else LOCAL_S)
    except Exception as error:
        if mode != "online":
            raise
        wandb.teardown()  # the failed start would keep the run's id
        for piece in set(folder.glob("wandb/run-*")) - before:
            shutil.rmtree(piece, ignore_errors=True)
        run, problem = opened("offline", LOCAL_S), f"recorded offline ({one_line(error)})"
    note(folder, opened=True, finished=False, problem=problem)
    return run


def _numbers(summary: dict[str, Any], scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a run comes to: held-out measures, cost, and the scores of its last moment."""
    found = {**summary["student"]["heldout"], **summary["cost"]} if summary else {}
    teacher = summary.get("teacher") if summary else None
    if teacher and teacher["heldout"]:
        found["teacher_heldout_loss"] = teacher["heldout"]["loss"]
    last = [score for score in scores if score["moment"] == scores[-1]["moment"]]
    return found | {f"{score['task']}/{score['metric']}": score["value"] for score in last}


def one_line(error: BaseException) -> str:
    """Return the error in one line, with no key in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    key = os.environ.get("WANDB_API_KEY")
    return re.sub(r"\w{40,}", "***", text.replace(key, "***") if key else text)[:300]


def main() -> None:
    """Send the folder that the command line names, and leave without W&B's exit hooks."""
    parser = argparse.ArgumentParser(prog="python -m dwt_cli.track.wandb")
    parser.add_argument("folder", type=Path, help="a run's directory")
    parser.add_argument("--project", default="dwt", help="of a run made with tracker=none")
    parser.add_argument("--entity", help="of a run made with tracker=none")
    parser.add_argument("--follow", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    if (said := read_json(folder / ABOUT)) is None:
        if not (config := read_settings(folder)):
            sys.exit(f"{folder} is no run's folder: it has no config.yaml")
        name, _, identity = folder.name.rpartition("-")
        options = Wandb(project=asked.project, entity=asked.entity)
        said = about(Entry(folder, identity, name, without_home(config)), options)
    (folder / "wandb").mkdir(exist_ok=True)
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        ended.set()
        seconds = 2 * LOCAL_S + asked.follow + model_seconds(folder, said["model"])
        signal.alarm(int(seconds))  # ends a session that hangs

    if asked.follow is not None:
        threading.Thread(target=wait_for_the_end, daemon=True).start()
    else:
        ended.set()
    # W&B's caches stay below the folder, and its crash reports at home.
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb" / "data"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # W&B makes folders as soon as it is imported, and its hook that removes them never runs here.
    temporary = folder / TEMPORARY
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = str(temporary)
    code = 0
    try:
        send(folder, said, ended, asked.follow)
    except Exception as error:
        code = 1
        print(f"W&B: {one_line(error)}")
        with contextlib.suppress(OSError):
            note(folder, finished=False, problem=f"not all is sent ({one_line(error)})")
    if asked.follow is None and (command := unsent(folder)):
        print(f"W&B has not been sent everything: {command}")
    sys.stdout.flush()
    shutil.rmtree(temporary, ignore_errors=True)
    os._exit(code)  # W&B's own hook waits without a limit; its process ends with this one


if __name__ == "__main__":
    main()
