"""The run directory: named by what the run is, found again by the same command.

``<root>/<readable>-<identity>/`` holds config.yaml, environment.json, status.json, metrics.jsonl,
checkpoints/, model/, summary.json and figures. Everything a report says is recomputed from it.
"""

import itertools
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import AcquireReturnProxy, FileLock

from dwt_cli.base import atomic, locks
from dwt_cli.base.atomic import read_json
from dwt_cli.base.errors import UserError
from dwt_cli.base.home import INSTEAD, without_home
from dwt_cli.config import files
from dwt_cli.config.run import DISTILLATION, LONGEST_NAME
from dwt_cli.track.options import Entry
from dwt_cli.track.summary import Summary

if TYPE_CHECKING:
    from dwt_cli.base.ranks import Ranks
    from dwt_cli.recipe.stage import Stage

LOCK = ".lock"
_WRITTEN_LATER = ("scores.json", "status.json")  # they are in no sums
_UNNAMED = ("run", "tracker", "launch", "parallel", "jobs", "eval", "seed")


def readable(choices: Mapping[str, str], overrides: Sequence[str], seed: int) -> str:
    """Return a name of at most `LONGEST_NAME` characters, as ``small-strong-max_steps_300-seed0``.

    It has the teacher, what else is not the default, each setting that was typed, and the seed; of
    paths the last part. Where it is too long the settings are abbreviated. No character in it needs
    quoting, neither in a shell nor in Hydra's ``teacher.path=...``.
    """
    idle = (*_UNNAMED, *(DISTILLATION if choices.get("teacher") == "none" else ()))
    teacher, typed = choices.get("teacher", ""), {}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "teacher.path":
            teacher = last_part(value)
        elif key not in choices and re.split("[./@]", key)[0] not in idle:
            typed[key] = last_part(value)
    usual = files.defaults()
    chosen = [
        choices[group]
        for group in usual
        if group not in ("teacher", *idle) and choices.get(group, usual[group]) != usual[group]
    ]
    last = Counter(key.rpartition(".")[2] for key in typed)
    end = f"-seed{seed}"
    for letters in (99, 4, 1):
        parts = [teacher, *chosen]
        for key in sorted(typed):
            short = key if last[word := key.rpartition(".")[2]] > 1 else word
            words = [word[:letters] for word in re.split("[._@]", short) if word != "path"]
            parts.append("_".join([*words, typed[key]]))
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(parts))
        if len(name + end) <= LONGEST_NAME:
            break
    return name[: LONGEST_NAME - len(end)].rstrip("-_.") + end


def last_part(path: str) -> str:
    """Return what a path is called by; a run's folder by its fingerprint, as ``run_0123456``."""
    known = without_home(path.strip("'\"[]")).split("/")
    parts = [part for part in known if part not in ("", "model", INSTEAD)]
    parts = [part for part in parts if "*" not in part] or parts
    parts = parts or ["home"] * (INSTEAD in known)
    return re.sub(r".*-([0-9a-f]{7})[0-9a-f]{9}$", r"run_\1", parts[-1]) if parts else ""


def find(root: Path, identity: str) -> Path | None:
    """Return the directory of the run with this identity, under whatever readable name."""
    return next(iter(sorted(root.glob(f"*-{identity}"))), None)


def recorded_as(root: Path, stage: "Stage") -> str:
    """Return the identity under which a run is on record, or shall be."""
    if stage.formerly and not find(root, stage.identity) and find(root, stage.formerly):
        return stage.formerly
    return stage.identity


def summary_of(root: Path, stage: "Stage") -> Summary | None:
    """Return the summary of a finished run, by its last stage."""
    return read_summary(find(root, recorded_as(root, stage)))


def read_summary(folder: Path | None) -> Summary | None:
    """Return a run's summary; None where there is no such run, or it is not finished."""
    content = read_json(folder / "summary.json") if folder else None
    return None if content is None else Summary.from_json(content)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Record(AbstractContextManager["Record"]):
    """One run directory, which rank 0 of one process group holds and writes at a time.

    On the other ranks nothing is written. settings: as JSON values. summary: of a finished run,
    else None; all ranks know it. Raises `UserError` when another process holds the directory, or
    it cannot be written.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        identity: str,
        settings: dict[str, Any],
        say: Callable[[str], None],
        ranks: "Ranks",
        fresh: bool = False,
    ) -> None:
        self._lock: AcquireReturnProxy[FileLock] | None = None  # rank 0 has it, and writes

        def begin() -> dict[str, Any]:
            folder = find(root, identity) or root / f"{name}-{identity}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = locks.take(folder / LOCK)
            except locks.Held as holder:
                problem = f"{holder} is at work in {folder}: wait for it, or stop it"
                raise UserError(problem) from holder
            except (FileExistsError, NotADirectoryError):
                raise  # it names what is in the way
            except OSError as error:
                raise UserError(
                    f"run.root={root} cannot be written ({error.strerror}); "
                    "set run.root to another folder"
                ) from error
            if fresh and any(folder.glob("[!.]*")):
                numbered = (folder.with_name(f"{folder.name}.{n}") for n in itertools.count(1))
                kept = folder.rename(next(place for place in numbered if not place.exists()))
                self._lock.lock.release()
                folder.mkdir()
                self._lock = locks.take(folder / LOCK)
                say(f"what was there is kept as {kept}")
            return {"folder": str(folder), "summary": read_json(folder / "summary.json")}

        begun = ranks.from_first("the record", begin)
        summary = begun["summary"]
        self.folder = Path(begun["folder"])
        self.summary = None if summary is None else Summary.from_json(summary)
        self.entry = Entry(self.folder, identity, name, without_home(settings))

    def start(self, environment: dict[str, Any]) -> list[str]:
        """Write what is about to run; return how this machine differs from the record's.

        When it began at first stays in environment.json.
        """
        if self._lock is None:
            return []
        before = read_json(self.folder / "environment.json") or {"began": _now()}
        environment = environment | {"began": before.get("began")}  # of older runs it is not known
        settings = yaml.safe_dump(self.entry.config, sort_keys=False)
        atomic.write_text(self.folder / "config.yaml", settings)
        atomic.write_json(self.folder / "environment.json", environment)
        self.status("running")
        return [
            f"{key} was {before[key]} and is {value}: what follows may differ in rounding"
            for key, value in environment.items()
            if key in before and before[key] != value
        ]

    def status(self, state: str, **more: Any) -> None:
        """Write running, interrupted, failed or finished, with whatever else is to be known."""
        if self._lock is None:
            return
        known = {
            "state": state,
            "teacher": self.entry.config["choices"].get("teacher"),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "time": _now(),
        }
        atomic.write_json(self.folder / "status.json", known | without_home(more))

    def finish(self, summary: Summary) -> None:
        """Make the last write of a run: from here on it is finished."""
        if self._lock is not None:
            (self.folder / atomic.SUMS).unlink(missing_ok=True)  # a kill here leaves no wrong ones
            atomic.write_json(self.folder / "summary.json", summary.to_json())
            self.status("finished")
            atomic.write_sums(self.folder, *_WRITTEN_LATER)

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.lock.release()
