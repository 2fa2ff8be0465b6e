"""The runs of a study: what is there, and what was left out and why."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dwt_cli.base.atomic import read_json
from dwt_cli.base.identity import counted
from dwt_cli.evaluate.options import Eval
from dwt_cli.study.compute import Account, Points, flops
from dwt_cli.study.record import Job, StudyRecord, read_study
from dwt_cli.track.metrics import read_lines
from dwt_cli.track.summary import heldout_masks
from dwt_cli.training.options import Train

_NEEDED = (
    ("identity",),
    ("seconds",),
    ("corpus", "fingerprint"),
    ("student", "steps"),
    ("student", "parameters"),
    ("student", "heldout", "loss"),
    ("cost", "student_flops"),
    ("cost", "teacher_forward_flops"),
    ("cost", "teacher_pretraining_flops"),
    ("cost", "student_seconds"),
)
_LENGTH = ("max_steps", "epochs", "max_minutes", "every")
_NUM_WEIGHTS = 200  # points of a schedule, as many as a picture can show


@dataclass(frozen=True)
class Cell:
    """One finished run. summary: its summary.json; environment: its environment.json.

    curve: (step, held-out loss) of every evaluation. weights: (share of the run, alpha_hard,
    alpha_soft), thinned. settings: what is recorded of a student, its training and its evaluation
    and is part of an identity, but length and seed; None where config.yaml is unreadable. masks: of
    the held-out text, in words.
    """

    job: Job
    summary: dict[str, Any]
    environment: dict[str, Any]
    settings: dict[str, Any] | None
    masks: str
    curve: list[tuple[int, float]]
    weights: list[tuple[float, float, float]]

    @property
    def steps(self) -> int:
        steps: int = self.summary["student"]["steps"]
        return steps

    @property
    def loss(self) -> float:
        """Held-out loss at the end."""
        loss: float = self.summary["student"]["heldout"]["loss"]
        return loss

    @property
    def teacher_loss(self) -> float | None:
        """The teacher's own held-out loss; None without one, and of one that is no model."""
        teacher = self.summary["teacher"]
        if teacher is None or not teacher.get("parameters"):
            return None
        loss: float = teacher["heldout"]["loss"]
        return loss

    def flops(self, account: Account) -> float | None:
        return flops(self.summary, account)

    def loss_at(self, progress: float) -> float | None:
        """Held-out loss at a share of the run: the end, or the nearest evaluation."""
        if progress == 1.0:
            return self.loss
        if not self.curve:
            return None
        return min(self.curve, key=lambda point: abs(point[0] - progress * self.steps))[1]


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in a report's figures. what: a job's whole run, or its curve."""

    job: Job
    why: str
    what: str = "run"


@dataclass(frozen=True)
class Results:
    """A study and its cells, in the order of its jobs."""

    study: StudyRecord
    cells: list[Cell]
    left_out: list[LeftOut]

    def of(self, arm: str, length: int) -> dict[int, Cell]:
        """The cells of an arm at a length, by seed."""
        return self._by_place.get((arm, length), {})

    def why_not(self, job: Job) -> str | None:
        """Why a job's run is not among the cells."""
        return next((o.why for o in self.left_out if o.job is job and o.what == "run"), None)

    @cached_property
    def _by_place(self) -> dict[tuple[str, int], dict[int, Cell]]:
        found: dict[tuple[str, int], dict[int, Cell]] = {}
        for cell in self.cells:
            found.setdefault((cell.job.arm, cell.job.length), {})[cell.job.seed] = cell
        return found

    @cached_property
    def baseline(self) -> str | None:
        """The baseline arm if any of its runs is there."""
        arm = self.study.baseline
        return arm if any(cell.job.arm == arm for cell in self.cells) else None

    @cached_property
    def stand_alone(self) -> set[str]:
        """The arms whose cells are points of the stand-alone student, the baseline first of all.

        Nobody teaches them, nothing is remapped, and all but the length is as in the baseline.
        """
        like = [cell.settings for cell in self.cells if cell.job.arm == self.baseline]
        arms = {cell.job.arm for cell in self.cells if _is_alone(cell) and cell.settings in like}
        others = {cell.job.arm for cell in self.cells if not _is_alone(cell)}
        return arms - others | ({self.baseline} if self.baseline else set())

    @property
    def compared(self) -> list[str]:
        """The arms that are not the stand-alone student, in the study's order."""
        return [arm for arm in self.study.arms if arm not in self.stand_alone]

    def stand_alone_points(self, seed: int) -> Points:
        """(FLOPs, held-out loss) of the stand-alone student at every length that was trained."""
        found: dict[float, float] = {}
        arms = sorted(self.stand_alone, key=lambda arm: (arm != self.baseline, arm))
        for cell in (cell for arm in arms for cell in self.cells if cell.job.arm == arm):
            if cell.job.seed == seed:
                found.setdefault(cell.summary["cost"]["student_flops"], cell.loss)
        return sorted(found.items())

    def points(self, arm: str, seed: int, account: Account) -> Points:
        """(FLOPs, held-out loss) of an arm at each of its lengths."""
        cells = [c for c in self.cells if c.job.arm == arm and c.job.seed == seed]
        found = [(cell.flops(account), cell.loss) for cell in cells]
        return sorted((cost, loss) for cost, loss in found if cost is not None)


def _is_alone(cell: Cell) -> bool:
    return cell.summary["teacher"] is None and "remap" not in cell.summary["student"]


# ---------------------------------------------------------------------------------- reading


def read_results(folder: Path) -> Results:
    """Everything of a study that can be used. Raises `UserError` for no study's folder.

    The disk is believed before study.json: a run whose summary is whole is finished.
    """
    study = read_study(folder)
    cells: list[Cell] = []
    left_out: list[LeftOut] = []
    for job in study.jobs:
        try:
            cell = _cell(folder, job)
        except _Unusable as reason:
            left_out.append(LeftOut(job, str(reason)))
            continue
        cells.append(cell)
        if not cell.curve or cell.curve[-1][0] != cell.steps:
            end = f"ends at step {cell.curve[-1][0]}" if cell.curve else "is not there"
            left_out.append(LeftOut(job, f"its metrics.jsonl {end}", "curve"))
    kept = _alike(cells, left_out)
    return Results(study, kept, left_out)


class _Unusable(Exception):
    """Why a job has no cell."""


def _cell(folder: Path, job: Job) -> Cell:
    place = None if job.folder is None else folder / job.folder
    if place is None or not (place / "summary.json").exists():
        raise _Unusable(_unfinished(job, place))
    summary = read_json(place / "summary.json")
    if summary is None:
        raise _Unusable("its summary.json is half-written")
    for keys in _NEEDED:
        if not _has(summary, keys):
            raise _Unusable(f"its summary.json lacks {'.'.join(keys)}")
    if job.identity is not None and summary["identity"] != job.identity:
        raise _Unusable(f"its folder holds another run, {summary['identity']}")
    loss = summary["student"]["heldout"]["loss"]
    if loss is None or not math.isfinite(loss):
        raise _Unusable("its held-out loss is not finite: it has diverged")
    lines = read_lines(place / "metrics.jsonl")
    config = _config(place / "config.yaml")
    return Cell(
        job,
        {"teacher": None, **summary},
        read_json(place / "environment.json") or {},
        config and _settings(config),
        heldout_masks(config or {}),
        [(int(x["step"]), x["heldout/loss"]) for x in lines if x.get("heldout/loss") is not None],
        _weights(lines),
    )


def _has(content: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


def _unfinished(job: Job, place: Path | None) -> str:
    if job.state == "failed":
        return f"failed: {job.error or 'nothing was said'}"
    if place is None or job.state == "missing":
        return "has not been run"
    if not place.is_dir():
        return "its folder is gone"
    return "is running" if job.state == "running" else "has no summary.json: it did not finish"


def _config(path: Path) -> dict[str, Any] | None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    found = {group: content.get(group) or {} for group in ("task", "student", "optim")}
    for group, kind in (("train", Train), ("eval", Eval)):
        settings = content.get(group) or {}
        known = {f.name: settings[f.name] for f in fields(kind) if f.name in settings}
        found[group] = {k: v for k, v in counted(kind, known).items() if k not in _LENGTH}
    # a setting that came later is null where it is not set
    return {group: {k: v for k, v in of.items() if v is not None} for group, of in found.items()}


def _weights(lines: Sequence[Mapping[str, float]]) -> list[tuple[float, float, float]]:
    found = [
        (line["train/progress"], line["train/alpha_hard"], line.get("train/alpha_soft", 0.0))
        for line in lines
        if "train/alpha_hard" in line
    ]
    every = max(1, len(found) // _NUM_WEIGHTS)
    return found[::every] + (found[-1:] if (len(found) - 1) % every else [])


# ------------------------------------------------------------------------ what must be alike


def _alike(cells: list[Cell], left_out: list[LeftOut]) -> list[Cell]:
    """The cells on the text and with the versions that most have; the others are left out."""
    texts = [cell.summary["corpus"] for cell in cells]
    today = {text["formerly"]: text["fingerprint"] for text in texts if "formerly" in text}

    def text(cell: Cell) -> str:
        name: str = cell.summary["corpus"]["fingerprint"]
        return today.get(name, name)

    kept = _majority(cells, left_out, "text", text)
    kept = _majority(kept, left_out, "held-out masks", lambda cell: cell.masks)
    return _majority(kept, left_out, "versions", _versions)


def _majority(cells: list[Cell], left_out: list[LeftOut], what: str, of: Any) -> list[Cell]:
    counted = Counter(of(cell) for cell in cells)
    if len(counted) < 2:
        return cells
    usual = counted.most_common(1)[0][0]  # of equally many, the one that comes first
    kept = []
    for cell in cells:
        if of(cell) == usual:
            kept.append(cell)
        else:
            why = f"{_differs(of(cell), usual)}: it cannot be compared"
            left_out.append(LeftOut(cell.job, f"other {what} than most runs: {why}"))
    return kept


def _versions(cell: Cell) -> frozenset[tuple[str, str]]:
    versions = {**cell.environment.get("versions", {})}
    if python := cell.environment.get("python"):
        versions["python"] = python
    return frozenset(versions.items())


def _differs(this: Any, usual: Any) -> str:
    if isinstance(this, frozenset):
        there, here = dict(usual), dict(this)
        return ", ".join(
            f"{name} {here.get(name, 'unknown')} instead of {there.get(name, 'none')}"
            for name in sorted(there.keys() | here.keys())
            if here.get(name) != there.get(name)
        )
    return f"{this} instead of {usual}"
