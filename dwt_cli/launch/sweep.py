"""The runs of a multirun: carry out what is missing, and report on all of them.

Runs are found by what they are, so a second start does what is missing, and arms that several
studies share are trained once. The study's folder, ``<run.root>/studies/<name>/``, has study.json,
what each process printed, and the report.
"""

import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from dwt_cli.base import locks
from dwt_cli.base.atomic import read_json
from dwt_cli.base.errors import MISTAKE, UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.config.run import Mode, Run
from dwt_cli.launch import pool
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import LOCK, find, recorded_as
from dwt_cli.study.board import show
from dwt_cli.study.record import FILE, Job, StudyRecord, read_study, write_study
from dwt_cli.study.report import print_report, write_report
from dwt_cli.study.results import read_results
from dwt_cli.track.display import plain_line
from dwt_cli.track.overview import Overview

_AXES = {"seed", "scale.max_steps", "train.max_steps"}  # what is no arm, but a seed or a length

State = Literal["finished", "failed", "running", "missing"]


@dataclass(frozen=True)
class _Cell:
    """One run of the multirun, and where it stands in it."""

    run: Run
    identity: str
    arm: str
    length: int
    words: tuple[str, ...]

    @property
    def key(self) -> tuple[str, int, int]:
        return self.arm, self.length, self.run.seed


def carry_out(
    runs: Sequence[Run], study: str | None, arguments: Sequence[str], console: Console
) -> int:
    """Do what is missing, each run in a process of its own; returns the exit code.

    study: the name of the primary config, where it is a study's. Raises `UserError` when another
    process is at work in the study's folder, KeyboardInterrupt when it was asked to stop.
    """
    say = plain_line(console)
    if runs[0].jobs.needs_slurm and not runs[0].launch.job:
        raise UserError("jobs=submitit: runs are handed to SLURM with launch=slurm; choose it too")
    cells = _cells(runs, arguments)
    name = study if study and runs[0].of_study else f"multirun-{_kind_of(cells)}"
    folder = Path(runs[0].run.root).expanduser() / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.take(folder / LOCK)
    except locks.Held as holder:
        raise UserError(f"{holder} is at work on {folder}: wait for it, or stop it") from holder
    try:
        ledger = _Ledger(folder, _asked(name, cells, arguments), cells, say)
        _work_off(ledger, cells, folder, console)
        failed = ledger.failed(cells)
        for job in failed:
            say(f"failed: {job.arm}, length {job.length}, seed {job.seed}: {job.error}")
        results = read_results(folder)
        print_report(console, results, write_report(folder, results))
        show(results, folder, runs[0].tracker, say)
    finally:
        lock.release()
    return MISTAKE if failed else 0


def _work_off(ledger: "_Ledger", cells: Sequence[_Cell], folder: Path, console: Console) -> None:
    options = cells[0].run.jobs
    every = {cell.identity: cell for cell in reversed(cells)}  # arms may be the same run
    names = {cell.identity: f"{cell.arm}, length {cell.length}, seed {cell.run.seed}"
             for cell in cells}  # fmt: skip
    missing = [cell for cell in cells if every[cell.identity] is cell and not ledger.has(cell)]
    steps = {cell.identity: float(cell.run.train.num_steps(None) or 1) for cell in missing}
    tasks = [
        pool.Queued(_labelled(cell, folder.name), folder / "logs" / f"{cell.identity}.json")
        for cell in missing
    ]
    with Overview(console, folder.name, steps, num_done=len(every) - len(missing)) as overview:

        def poll(queued: pool.Queued) -> None:
            identity = queued.file.stem
            ledger.note(identity, "running")
            overview.at_work(identity, names[identity], find(ledger.root, identity))

        try:
            for outcome in pool.Pool(options, poll).carry_out(tasks):
                identity = outcome.queued.file.stem
                if outcome.begun:
                    ledger.note(identity, "failed" if outcome.error else "finished", outcome.error)
                    overview.ended(identity, names[identity], outcome.error, ledger.loss(identity))
        finally:
            ledger.note_stopped()


class _Ledger:
    """study.json while the runs are carried out: those of earlier commands stay in it."""

    def __init__(
        self,
        folder: Path,
        asked: StudyRecord,
        cells: Sequence[_Cell],
        say: Callable[[str], None],
    ) -> None:
        self._folder, self.root = folder, folder.parent.parent
        self._turn = threading.Lock()  # each run at work is watched by a thread
        before: Sequence[Job] = ()
        if (folder / FILE).exists():
            try:
                before = read_study(folder).jobs
            except UserError as error:  # torn, or of another version
                say(f"warning: {error}")
        now = {cell.key: self._job(cell) for cell in cells}
        kept = {(job.arm, job.length, job.seed): job for job in before if job.arm in asked.arms}
        self._asked, self._jobs = asked, {**kept, **now}
        self._write()

    def has(self, cell: _Cell) -> bool:
        """Return whether nothing is left to do for it."""
        run = cell.run
        is_plain = run.eval.measures == ["lm"] and run.eval.at == [1.0]
        return is_plain and run.run.mode is Mode.train and self._jobs[cell.key].state == "finished"

    def note(self, identity: str, state: State, error: str | None = None) -> None:
        """Note what has become of a run, in every arm that it is."""
        place = _from(find(self.root, identity))
        with self._turn:
            before = dict(self._jobs)
            for key, job in before.items():
                if job.identity == identity:
                    self._jobs[key] = replace(job, state=state, error=error, folder=place)
            if self._jobs != before:
                self._write()

    def note_stopped(self) -> None:
        """Note what was stopped on its way as missing."""
        for job in list(self._jobs.values()):
            if job.state == "running" and job.identity:
                self.note(job.identity, "missing")

    def failed(self, cells: Sequence[_Cell]) -> list[Job]:
        """Return the jobs of this command that have failed."""
        found = [self._jobs[cell.key] for cell in cells]
        return [job for job in found if job.state == "failed"]

    def loss(self, identity: str) -> float | None:
        """Return the held-out loss of a run that is finished."""
        place = find(self.root, identity)
        summary = read_json(place / "summary.json") if place else None
        return summary["student"]["heldout"]["loss"] if summary else None

    def _job(self, cell: _Cell) -> Job:
        place = find(self.root, cell.identity)
        is_done = place is not None and (place / "summary.json").is_file()
        state: State = "finished" if is_done else "missing"
        return Job(
            cell.arm, cell.length, cell.run.seed, cell.words, cell.identity, _from(place), state
        )

    def _write(self) -> None:
        jobs = tuple(self._jobs[key] for key in sorted(self._jobs))
        write_study(self._folder, replace(self._asked, jobs=jobs))


def _from(place: Path | None) -> str | None:
    """Return a run's folder as seen from the study's."""
    return f"../../{place.name}" if place else None


def _labelled(cell: _Cell, study: str) -> Run:
    """Return the run as its dashboard groups it: by study, with arm and seed as tags."""
    run = cell.run
    tags = [f"arm={cell.arm}", f"seed={run.seed}", f"length={cell.length}"]
    return replace(run, tracker=run.tracker.labelled(study, tags))


# ---------------------------------------------------------------------------- what was asked for


def _cells(runs: Sequence[Run], arguments: Sequence[str]) -> list[_Cell]:
    swept = _swept(runs)
    # how each run is asked for by itself: the options of the command, and of the words its own
    options = [
        word
        for word in arguments
        if (word.startswith("-") or "=" not in word) and word not in ("-m", "--multirun")
    ]
    cells = []
    for run in runs:
        identity = recorded_as(Path(run.run.root).expanduser(), recipe_of(run).student)
        words = tuple(run.overrides)
        if place := run.of_study:
            of_arm = shlex.split(place.study.arms[place.arm])
            typed = words[: len(words) - len(of_arm)]
            cells.append(_Cell(run, identity, place.arm, place.length, (*options, *typed)))
        else:
            arm = " ".join(word for word in words if _key(word) in swept - _AXES) or "run"
            cells.append(_Cell(run, identity, arm, run.train.max_steps or 0, words))
    return cells


def _swept(runs: Sequence[Run]) -> set[str]:
    """Return the settings that are not the same in all runs."""
    every = [set(run.overrides) for run in runs]
    same = set.intersection(*every)
    return {_key(word) for words in every for word in words - same}


def _key(word: str) -> str:
    return word.partition("=")[0]


def _kind_of(cells: Sequence[_Cell]) -> str:
    """Return a multirun's fingerprint: of what its runs share, and of the names of its factors."""
    swept = _swept([cell.run for cell in cells])
    fixed = sorted(word for word in cells[0].words if _key(word) not in swept | _AXES)
    return fingerprint("multirun", fixed, sorted(swept - _AXES))[:8]


def _asked(name: str, cells: Sequence[_Cell], arguments: Sequence[str]) -> StudyRecord:
    run = cells[0].run
    command = shlex.join(["dwt-train", *arguments])
    if run.of_study:
        return StudyRecord(**vars(run.of_study.study), name=name, command=command)
    arms = {cell.arm: cell.arm for cell in cells}
    alone = {cell.arm for cell in cells if not recipe_of(cell.run).teacher}
    baseline = alone.pop() if len(alone) == 1 else None
    return StudyRecord(
        question="", baseline=baseline, arms=arms, exploratory=[*arms], name=name, command=command
    )
