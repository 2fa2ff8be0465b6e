"""The reader of a run's record (`dwt_cli.track.wandb`), started and ended beside the run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from dwt_cli.base import atomic
from dwt_cli.track import wandb
from dwt_cli.track.options import Entry, Wandb

FINISH_S = 5.0
"""Seconds that the end of a run waits for a server."""

_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")


class Dashboard(AbstractContextManager["Dashboard"]):
    """A process that follows a run directory, or nothing where none was started.

    It has a session of its own, so that no signal of the terminal reaches it, and learns of the
    end by its standard input, which the system closes even where the run is killed.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], log_model: bool = False) -> None:
        self._folder, self._say, self._log_model = folder.absolute(), say, log_model
        self._process: subprocess.Popen[bytes] | None = None
        self._started = time.monotonic()

    @classmethod
    def start(cls, options: Wandb, entry: Entry, say: Callable[[str], None]) -> "Dashboard":
        """Start to send what is written in the entry's folder; a run never fails by it."""
        dashboard = cls(entry.folder, say, options.log_model)
        mode = os.environ.get("WANDB_MODE", "").strip().lower()
        if mode not in ("", *_MODES):
            say(f"W&B: nothing is sent: WANDB_MODE={mode} is none of {', '.join(_MODES)}")
            return dashboard
        if mode == "disabled":
            return dashboard
        folder = dashboard._folder
        try:
            (folder / "wandb").mkdir(exist_ok=True)
            atomic.write_json(folder / wandb.ABOUT, wandb.about(entry, options))
            wandb.note(folder, opened=False, finished=False, problem=None)
            with (folder / "wandb" / "reader.log").open("ab") as log:
                dashboard._process = subprocess.Popen(
                    [sys.executable, "-m", wandb.__name__, folder, "--follow", str(wandb.SERVER_S)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            say(f"W&B: nothing is sent ({error.strerror}: {error.filename}); the run goes on")
        return dashboard

    def finish(self) -> str | None:
        """Wait until the record is sent; return the command that sends what is left, or None.

        A server costs `FINISH_S` seconds at most (and a model that was asked for what it takes at
        10 MB/s). Only a process that was just started gets more, to load W&B.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin is not None
        process.stdin.close()
        until = max(time.monotonic(), self._started + wandb.LOCAL_S) + FINISH_S
        is_open = False
        try:
            while process.poll() is None and time.monotonic() < until:
                if not is_open and wandb.read_state(self._folder)["opened"]:
                    is_open = True
                    allowed = FINISH_S + wandb.model_seconds(self._folder, self._log_model)
                    until = time.monotonic() + allowed
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # W&B's own process ends with it
                process.wait()
                shutil.rmtree(self._folder / wandb.TEMPORARY, ignore_errors=True)
        if problem := wandb.read_state(self._folder)["problem"]:
            self._say(f"W&B: {problem}")
        return wandb.unsent(self._folder)

    def __exit__(self, *_: object) -> None:
        if (command := self.finish()) and wandb.has_key():
            self._say(f"W&B has not been sent everything: {command}")
