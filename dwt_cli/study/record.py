"""study.json: what a study asks, which jobs answer it, and what has become of each.

It lies in the study's folder, ``runs/studies/<name>/``. Whoever starts the jobs writes it; a
report is made of it and of the run directories that it names.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError

FILE = "study.json"
VERSION = 1


@dataclass(frozen=True)
class Claim:
    """What is expected of held-out loss, stated before any run: ``arm`` has the lower one.

    length: null is one claim for every length. progress: the share of the run at which losses are
    compared; below 1 the curve is read at the nearest evaluation.
    """

    claim: str
    arm: str
    against: str
    expect: Literal["lower", "higher"]
    length: int | None = None
    progress: float = 1.0


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


@dataclass(frozen=True)
class StudyRecord:
    """The content of study.json.

    baseline: the arm of the stand-alone student. smallest_effect: in nats of held-out loss; a
    difference below it is none. arms: name -> the words that set it apart. exploratory: arms
    without a verdict.
    """

    name: str
    question: str
    command: str
    baseline: str | None
    smallest_effect: float
    arms: dict[str, str]
    exploratory: tuple[str, ...]
    claims: tuple[Claim, ...]
    jobs: tuple[Job, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be meant."""
        named = {
            "baseline": [self.baseline] if self.baseline is not None else [],
            "exploratory": self.exploratory,
            "claims": [arm for claim in self.claims for arm in (claim.arm, claim.against)],
            "jobs": [job.arm for job in self.jobs],
        }
        for where, arms in named.items():
            for arm in arms:
                if arm not in self.arms:
                    raise ValueError(f"{where} names the arm {arm!r}, which is not among arms")
        for claim in self.claims:
            if not 0 < claim.progress <= 1:
                raise ValueError(f"claims: progress={claim.progress} is no share of a run")
            if {claim.arm, claim.against} & set(self.exploratory):
                raise ValueError(f"claims: {claim.claim!r} is about an exploratory arm")
        if not self.smallest_effect >= 0:
            raise ValueError(f"smallest_effect={self.smallest_effect} is below 0")
        cells = [(job.arm, job.length, job.seed) for job in self.jobs]
        if twice := next((cell for cell in cells if cells.count(cell) > 1), None):
            raise ValueError("jobs: {} of length {} and seed {} is there twice".format(*twice))

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
    atomic.write_json(folder / FILE, {"version": VERSION, **dataclasses.asdict(study)})


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
    """A JSON value as the type that is annotated. Raises ValueError with the place."""
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if outer is types.UnionType:
        (other,) = set(inner) - {types.NoneType}
        return None if value is None else _typed(other, value, where)
    if outer is tuple and isinstance(value, list):
        return tuple(_typed(inner[0], each, f"{where}[{n}]") for n, each in enumerate(value))
    if outer is dict and isinstance(value, dict):
        return {key: _typed(inner[1], each, f"{where}.{key}") for key, each in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"{where} has {', '.join(sorted(unknown))}, which nobody knows")
        found = {key: _typed(hints[key], each, f"{where}.{key}") for key, each in value.items()}
        try:
            return typing.cast(Any, kind)(**found)
        except TypeError as error:
            raise ValueError(f"{where} is incomplete ({error})") from error
    if outer is Literal and value in inner:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    wanted = " or ".join(map(repr, inner)) if outer is Literal else getattr(kind, "__name__", kind)
    raise ValueError(f"{where} is {value!r}, and should be {wanted}")
