"""The run directory: named by what the run is, found again by the same command.

``<root>/<readable>-<identity>/`` holds config.yaml, environment.json, status.json, metrics.jsonl,
checkpoints/, model/, summary.json and figures. Everything a report says is recomputed from it.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock

from dwt_cli.base import atomic, locks
from dwt_cli.base.atomic import read_json
from dwt_cli.base.errors import UserError
from dwt_cli.config.run import DISTILLATION
from dwt_cli.track.summary import Summary

if TYPE_CHECKING:
    from dwt_cli.base.ranks import Ranks

LOCK = ".lock"
_NAMED_GROUPS = ("teacher", "student", "alpha", "remap", "scale", "data")
_UNNAMED = ("run", "tracker", "launch", "parallel", "seed")


@dataclass(frozen=True)
class Label:
    """What a run is called, and its settings as JSON values."""

    name: str
    identity: str
    choices: dict[str, str]
    seed: int
    settings: dict[str, Any]


def readable(choices: Mapping[str, str], overrides: Sequence[str], seed: int) -> str:
    """Return the choices of the study's factors, the seed, and any single setting changed.

    No character in it needs quoting, neither in a shell nor in Hydra's ``teacher.path=...``.
    """
    idle = DISTILLATION if choices.get("teacher") == "none" else ()
    parts = [choices[g] for g in _NAMED_GROUPS if g in choices and g not in idle]
    for override in sorted(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        group = re.split("[./@]", key)[0]
        if key not in choices and group not in _UNNAMED:
            parts.append(f"{key}_{value}")
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(parts))
    return f"{name[:140]}-seed{seed}"


def find(root: Path, identity: str) -> Path | None:
    """Return the directory of the run with this identity, under whatever readable name."""
    return next(iter(sorted(root.glob(f"*-{identity}"))), None)


def summary_of(root: Path, identity: str) -> Summary | None:
    """Return the summary of a finished run."""
    folder = find(root, identity)
    content = read_json(folder / "summary.json") if folder else None
    return None if content is None else Summary.from_json(content)


class Record(AbstractContextManager["Record"]):
    """One run directory, which rank 0 of one process group holds and writes at a time.

    On the other ranks nothing is written. summary: of a finished run, else None; all ranks know.
    Raises `UserError` when another process holds it or it cannot be written.
    """

    def __init__(
        self,
        root: Path,
        label: Label,
        say: Callable[[str], None],
        ranks: "Ranks",
        *,
        fresh: bool = False,
    ) -> None:
        self._root, self._label, self._writes = root, label, ranks.is_first
        self._lock: FileLock | None = None
        begun = ranks.from_first("the record", lambda: self._begin(fresh, say))
        self.folder = Path(begun["folder"])
        summary = begun["summary"]
        self.summary = None if summary is None else Summary.from_json(summary)

    def _begin(self, fresh: bool, say: Callable[[str], None]) -> dict[str, Any]:
        label = self._label
        folder = find(self._root, label.identity) or self._root / f"{label.name}-{label.identity}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = locks.take(folder / LOCK)
        except locks.Held as holder:
            raise UserError(f"{holder} is at work in {folder}: wait for it, or stop it") from holder
        except OSError as error:
            raise UserError(
                f"run.root={self._root} cannot be written ({error.strerror}); "
                "set run.root to another folder"
            ) from error
        if fresh and any(folder.glob("[!.]*")):
            say(f"what was there is kept as {self._set_aside(folder)}")
        return {"folder": str(folder), "summary": read_json(folder / "summary.json")}

    def _set_aside(self, folder: Path) -> Path:
        """Keep what is there under a number, in one move, and begin with an empty directory."""
        number = 1
        while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        folder.rename(kept)
        assert self._lock is not None
        self._lock.release()
        folder.mkdir()
        self._lock = locks.take(folder / LOCK)
        return kept

    def start(self, environment: dict[str, Any]) -> list[str]:
        """Write what is about to run; return how this machine differs from the record's."""
        if not self._writes:
            return []
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
        settings = yaml.safe_dump(self._label.settings, sort_keys=False)
        atomic.write_text(self.folder / "config.yaml", settings)
        atomic.write_json(self.folder / "environment.json", environment)
        self.status("running")
        return differences

    def status(self, state: str, **more: Any) -> None:
        """Write running, interrupted, failed or finished, with whatever else is to be known."""
        if not self._writes:
            return
        atomic.write_json(
            self.folder / "status.json",
            {
                "state": state,
                "teacher": self._label.choices.get("teacher"),
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **more,
            },
        )

    def finish(self, summary: Summary) -> None:
        """Make the last write of a run: from here on it is finished."""
        if self._writes:
            atomic.write_json(self.folder / "summary.json", summary.to_json())
            self.status("finished")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._lock.release()
