"""study.json: what a study asks, which jobs answer it, and what has become of each.

It lies in the study's folder, ``runs/studies/<name>/``. Whoever starts the jobs writes it; a
report is made of it and of the run directories that it names.
"""

import dataclasses
import json
import types
import typing
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import plain
from dwt_cli.study.options import StudyOptions

FILE = "study.json"
VERSION = 1


@dataclass(frozen=True)
class Job:
    """One run. words: what `dwt-train` is told. folder: relative to the study's, null if unknown.

    error: the one line of a job that failed.
    """

    arm: str
    length: int
    seed: int
    words: tuple[str, ...]
    identity: str | None
    folder: str | None
    state: Literal["finished", "failed", "running", "missing"]
    error: str | None = None


@dataclass(kw_only=True)
class StudyRecord(StudyOptions):
    """The content of study.json: what is asked, and the jobs that answer it.

    name: of the study's folder. command: the words that started it last.
    """

    name: str
    command: str
    jobs: tuple[Job, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be meant."""
        if problem := next(self.problems(""), None):
            raise ValueError(problem)
        cells = Counter((job.arm, job.length, job.seed) for job in self.jobs)
        for (arm, length, seed), number in cells.items():
            if arm not in self.arms:
                raise ValueError(f"jobs names the arm {arm!r}, which is not among arms")
            if number > 1:
                raise ValueError(f"jobs: {arm} of length {length} and seed {seed} is there twice")

    def lengths_of(self, *arms: str) -> list[int]:
        """The lengths at which each of these arms has a job, the shortest first."""
        each = [{job.length for job in self.jobs if job.arm == arm} for arm in arms]
        return sorted(set.intersection(*each))

    @property
    def lengths(self) -> list[int]:
        return sorted({job.length for job in self.jobs})

    @property
    def seeds(self) -> list[int]:
        return sorted({job.seed for job in self.jobs})


def write_study(folder: Path, study: StudyRecord) -> None:
    """Write study.json in one piece."""
    atomic.write_json(folder / FILE, {"version": VERSION, **plain(study)})


def read_study(folder: Path) -> StudyRecord:
    """Raises `UserError` when the folder is no study's, or its study.json cannot be used."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} is no study's folder: it has no {FILE}; give the folder of one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is unreadable ({error}): the study's own command writes it again"
        ) from error
    version = content.pop("version", None) if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path} is of version {version}, and this program reads version {VERSION}: "
            "the study's own command writes it again"
        )
    try:
        study: StudyRecord = _typed(StudyRecord, content, FILE)
    except ValueError as error:
        raise UserError(
            f"{path} is no study's record: {error}; the study's own command writes it again"
        ) from error
    return study


def _typed(kind: Any, value: Any, where: str) -> Any:
    """Return a JSON value as the type that is annotated. Raises ValueError with the place."""
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    wanted: Any = inner if outer is Literal else getattr(kind, "__members__", None)
    if outer is types.UnionType:
        (other,) = set(inner) - {types.NoneType}
        return None if value is None else _typed(other, value, where)
    if outer in (tuple, list) and isinstance(value, list):
        return outer(_typed(inner[0], each, f"{where}[{n}]") for n, each in enumerate(value))
    if outer is dict and isinstance(value, dict):
        return {key: _typed(inner[1], each, f"{where}.{key}") for key, each in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _made(kind, value, where)
    if wanted and isinstance(value, str) and value in wanted:
        return value if outer is Literal else wanted[value]
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    said = " or ".join(map(repr, wanted)) if wanted else getattr(kind, "__name__", kind)
    raise ValueError(f"{where} is {value!r}, and should be {said}")


def _made(kind: Any, content: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    if unknown := content.keys() - hints.keys():
        raise ValueError(f"{where} has {', '.join(sorted(unknown))}, which nobody knows")
    no_default = (MISSING, dataclasses.MISSING)
    needed = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default in no_default and f.default_factory is dataclasses.MISSING
    }
    if lacking := needed - content.keys():
        raise ValueError(f"{where} is incomplete: it lacks {', '.join(sorted(lacking))}")
    return kind(
        **{key: _typed(hints[key], each, f"{where}.{key}") for key, each in content.items()}
    )
