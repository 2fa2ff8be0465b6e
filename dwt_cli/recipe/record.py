"""The run directory: named by what the run is, found again by the same command.

``<root>/<readable>-<identity>/`` holds config.yaml, environment.json, status.json, metrics.jsonl,
checkpoints/, model/, summary.json and figures. Everything a report says is recomputed from it.
"""

import json
import os
import re
import socket
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from dwt_cli.base import atomic, locks
from dwt_cli.base.atomic import read_json
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import plain
from dwt_cli.config.run import Run
from dwt_cli.distill.teacher.options import Teacher

LOCK = ".lock"
_NAMED_GROUPS = ("teacher", "student", "alpha", "remap", "scale", "data")
_IDLE_ALONE = ("alpha", "remap")  # without a teacher they have no effect
_UNNAMED = ("run", "tracker", "launch", "parallel", "seed")


def readable(run: Run) -> str:
    """The choices of the study's factors, the seed, and any single setting that was changed.

    No character in it needs quoting, neither in a shell nor in Hydra's ``teacher.path=...``.
    """
    idle = _IDLE_ALONE if type(run.teacher) is Teacher else ()
    parts = [run.choices[g] for g in _NAMED_GROUPS if g in run.choices and g not in idle]
    for override in sorted(run.overrides):
        key, _, value = override.lstrip("+~").partition("=")
        group = re.split("[./@]", key)[0]
        if key not in run.choices and group not in _UNNAMED:
            parts.append(f"{key}_{value}")
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(parts))
    return f"{name[:140]}-seed{run.seed}"


def find(root: Path, identity: str) -> Path | None:
    """The directory of the run with this identity, under whatever readable name."""
    return next(iter(sorted(root.glob(f"*-{identity}"))), None)


def summary_of(root: Path, identity: str) -> dict[str, Any] | None:
    """The summary of a finished run."""
    folder = find(root, identity)
    if folder is None or not (folder / "summary.json").is_file():
        return None
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


class Record(AbstractContextManager["Record"]):
    """One run directory, held by one process at a time.

    Raises `UserError` when another process holds it or it cannot be written.
    """

    def __init__(self, run: Run, identity: str) -> None:
        root = Path(run.run.root).expanduser()
        self.identity = identity
        self.name = readable(run)
        self.folder = find(root, identity) or root / f"{self.name}-{identity}"
        self._run = run
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locks.take(self.folder / LOCK)
        except locks.Held as holder:
            raise UserError(
                f"{holder} is at work in {self.folder}: wait for it, or stop it"
            ) from holder
        except OSError as error:
            raise UserError(
                f"run.root={run.run.root} cannot be written ({error.strerror}); "
                "set run.root to another folder"
            ) from error

    @property
    def summary(self) -> dict[str, Any] | None:
        """What a finished run says of itself; None while it is not finished."""
        return read_json(self.folder / "summary.json")

    def start(self, environment: dict[str, Any]) -> list[str]:
        """Write down what is about to run. Returns how this machine differs from the record's."""
        before = read_json(self.folder / "environment.json")
        differences = (
            []
            if before is None
            else [
                f"{key} was {before.get(key)} and is {value}: what follows may differ in rounding"
                for key, value in environment.items()
                if before.get(key) != value
            ]
        )
        atomic.write_text(
            self.folder / "config.yaml", yaml.safe_dump(plain(self._run), sort_keys=False)
        )
        atomic.write_json(self.folder / "environment.json", environment)
        self.status("running")
        return differences

    def status(self, state: str, **more: Any) -> None:
        """running | interrupted | failed | finished, with whatever else is to be known."""
        atomic.write_json(
            self.folder / "status.json",
            {
                "state": state,
                "teacher": self._run.choices.get("teacher"),
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **more,
            },
        )

    def finish(self, summary: dict[str, Any]) -> None:
        """The last write of a run: from here on it is finished."""
        atomic.write_json(self.folder / "summary.json", summary)
        self.status("finished")

    def set_aside(self) -> Path:
        """Keep what is there under a number, in one move, and begin with an empty directory."""
        number = 1
        while (kept := self.folder.with_name(f"{self.folder.name}.{number}")).exists():
            number += 1
        self.folder.rename(kept)
        self._lock.release()
        self.folder.mkdir()
        self._lock = locks.take(self.folder / LOCK)
        return kept

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
