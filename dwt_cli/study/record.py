"""study.json: what a study asks, which jobs answer it, and what has become of each.

It lies in the study's folder, ``runs/studies/<name>/``. Whoever starts the jobs writes it; a
report is made of it and of the run directories that it names.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import MISSING
from pydantic import TypeAdapter, ValidationError

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import plain
from dwt_cli.base.options import walk
from dwt_cli.study.options import StudyOptions

FILE = "study.json"


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
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be meant."""
        for where, value, _ in walk(self):
            if value == MISSING:
                raise ValueError(f"it lacks {where}")
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
    atomic.write_json(folder / FILE, plain(study))


def read_study(folder: Path) -> StudyRecord:
    """Raises `UserError` when the folder is no study's, or its study.json cannot be used."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} is no study's folder: it has no {FILE}; give the folder of one")
    kind, told = TypeAdapter(StudyRecord), "the study's own command writes it again"
    try:
        return kind.validate_json(path.read_bytes(), strict=True, extra="forbid")
    except ValidationError as error:
        raise UserError(f"{path} cannot be used ({_line(error)}): {told}") from error
    except OSError as error:
        raise UserError(f"{path} is unreadable ({error.strerror}): {told}") from error


def _line(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return ": ".join(filter(None, [place, first["msg"].removeprefix("Value error, ")]))
