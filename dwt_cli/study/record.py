"""What a study asks, its arms and claims; and study.json, which has its jobs besides.

It lies in the study's folder, ``runs/studies/<name>/``. Whoever starts the jobs writes it; a
report is made of it, of runs.jsonl and of the run directories that it names.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

from omegaconf import MISSING

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import plain
from dwt_cli.base.options import dotted, walk

FILE = "study.json"
RUNS = "runs.jsonl"
"""Has the study in its first line, for where there is no study.json (`dwt_cli.study.kept`)."""


class Expect(Enum):
    """Expectation of a loss: below another, above it, or within some nats of it.

    not_higher: it is at most so much above the other. equal: neither above it nor below by more.
    """

    lower = "lower"
    higher = "higher"
    not_higher = "not_higher"
    equal = "equal"


@dataclass
class Claim:
    """What a study says beforehand: held-out loss of ``arm`` ends below, or above, ``against``'s.

    best_of: instead of ``against``, arms of which the one is taken that ends lowest over the seeds
    of ``chosen_on``; it is compared over the others. within: nats, for not_higher and equal; of
    not_higher it may be below 0: then the loss is lower by that at the least.
    length: at which; null is a claim for every length. progress: the share of the run at which
    losses are compared; below 1 the curve is read at the nearest evaluation. tokens: read by then,
    instead of a share; the evaluation is at most a quarter away, and shorter lengths have no such
    claim.
    """

    claim: str = MISSING
    arm: str = MISSING
    against: str | None = None
    expect: Expect = MISSING
    length: int | None = None
    progress: float = 1.0
    tokens: int | None = None
    within: float = 0.01
    best_of: list[str] = field(default_factory=list)
    chosen_on: list[int] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """The arms that it is about."""
        return [self.arm, *(self.best_of or [str(self.against)])]

    @property
    def at(self) -> float:
        """The place in a run: a share of it; above 1 tokens."""
        return self.tokens or self.progress


@dataclass
class StudyOptions:
    """What a study asks, written down before it runs.

    baseline: the arm of the stand-alone student; null for none. smallest_effect: of interest, in
    nats of held-out loss; a difference below it is none. arms: what each one sets, as words of a
    command. words: what several of them set, which they refer to as ${study.words.NAME}.
    exploratory: those that no claim is about. chosen_on: the seeds by which the headline's arm is
    chosen, for the others to confirm it; empty for all, and none to confirm. compares_signals: some
    taught arms may have a cached signal, and others none; else it is all of them or none.
    """

    question: str = MISSING
    baseline: str | None = "alone"
    smallest_effect: float = 0.02
    arms: dict[str, str] = MISSING
    words: dict[str, str] = field(default_factory=dict)
    exploratory: list[str] = field(default_factory=list)
    chosen_on: list[int] = field(default_factory=list)
    compares_signals: bool = False
    claims: list[Claim] = field(default_factory=list)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what cannot be meant, one line each."""
        named = {
            "baseline": [] if self.baseline is None else [self.baseline],
            "exploratory": self.exploratory,
            "claims": [arm for claim in self.claims for arm in claim.arms],
        }
        for where, arms in named.items():
            for arm in arms:
                if arm not in self.arms:
                    have = ", ".join(self.arms)
                    yield f"{dotted(setting, where)} names the arm {arm!r}, and there is {have}"
        if not self.smallest_effect >= 0:
            yield f"{dotted(setting, 'smallest_effect')}={self.smallest_effect}: it is at least 0"
        where = dotted(setting, "claims")
        for claim in self.claims:
            if not 0 < claim.progress <= 1:
                yield f"{where}: progress={claim.progress} is no share of a run; at most 1, above 0"
            if claim.tokens is not None and claim.tokens < 2:
                yield f"{where}: tokens={claim.tokens} is no place in a run; at least 2"
            if claim.tokens is not None and claim.progress != 1:
                both = f"tokens={claim.tokens} and progress={claim.progress:g}"
                yield f"{where}: {claim.claim!r} has {both}; leave one out"
            if not bool(claim.best_of) == bool(claim.chosen_on) != bool(claim.against):
                yield (
                    f"{where}: {claim.claim!r} has either against, or best_of and chosen_on, the "
                    "seeds by which the best is chosen"
                )
            is_within = claim.expect in (Expect.not_higher, Expect.equal)
            if (claim.expect is Expect.equal and claim.within <= 0) or not (
                is_within or claim.within == Claim.within
            ):
                yield (
                    f"{where}: {claim.claim!r} has within={claim.within:g}; it is about not_higher "
                    "and equal, and above 0 for equal"
                )
            if set(claim.arms) & set(self.exploratory):
                yield f"{where}: {claim.claim!r} is about an exploratory arm; leave one out"


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
        for job in self.jobs:
            if job.folder and not re.fullmatch(r"\.\./\.\./(?!\.\.?$)[^/]+", job.folder):
                raise ValueError(f"jobs: {job.folder} is no run beside the folder of studies")

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
    """Raises `UserError` when the folder is no study's, or what it has cannot be used."""
    path = next(filter(Path.is_file, (folder / FILE, folder / RUNS)), None)
    if path is None:
        raise UserError(f"{folder} is no study's folder: it has no {FILE} or {RUNS}; give another")
    from pydantic import TypeAdapter, ValidationError  # a command's options need none

    told = "the study's own command writes it again"
    try:
        content = path.read_bytes()
        content = content.partition(b"\n")[0] if path.name == RUNS else content
        return TypeAdapter(StudyRecord).validate_json(content, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        line = ": ".join(filter(None, [place, first["msg"].removeprefix("Value error, ")]))
        raise UserError(f"{path} cannot be used ({line}): {told}") from error
    except OSError as error:
        raise UserError(f"{path} is unreadable ({error.strerror}): {told}") from error
