"""The runs of a multirun: carry out what is missing, and report on all of them.

Runs are found by what they are, so a second start does what is missing, and arms that several
studies share are trained once; those in runs.jsonl were trained elsewhere. The study's folder,
``<run.root>/studies/<name>/``, has study.json, runs.jsonl, what each process printed, the report.
"""

import shlex
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from dwt_cli.base import atomic, locks
from dwt_cli.base.errors import MISTAKE, UserError
from dwt_cli.base.home import with_home, without_home
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.machine import commit
from dwt_cli.config import packing
from dwt_cli.config.run import Mode, Run
from dwt_cli.distill.objective.features import over_features
from dwt_cli.launch import pool
from dwt_cli.launch.start import Begin
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import LOCK, find, read_summary, recorded_as
from dwt_cli.recipe.student import StudentStage
from dwt_cli.study.board import show
from dwt_cli.study.kept import Said, keep, read_kept
from dwt_cli.study.record import FILE, RUNS, Job, StudyRecord, read_study, write_study
from dwt_cli.study.report import print_report, write_report
from dwt_cli.study.results import read_results
from dwt_cli.track.display import Overview, plain_line
from dwt_cli.training.protocols import Moment

_AXES = {"seed", "scale.max_steps", "train.max_steps"}  # what is no arm, but a seed or a length
_PLACES = {"run.root", "run.cache"}  # on this machine; the record goes elsewhere, too

State = Literal["finished", "failed", "running", "missing"]


def carry_out(
    runs: Sequence[Run],
    study: str | None,
    arguments: Sequence[str],
    console: Console,
    begin: Begin,
    program: str = "dwt-train",
    reports: bool = True,
) -> int:
    """Do what is missing, each run in a process of its own; returns the exit code.

    study: the name of the primary config, where it is a study's. program, arguments: the command
    that asks for them. begin: starts a process. reports: whether a report is written and printed.
    Raises `UserError` when another process is at work in the study's folder, KeyboardInterrupt when
    it was asked to stop.
    """
    say, first = plain_line(console), runs[0]
    pool.check(first)
    of = first.of_study
    command = shlex.join([program, *_without_places(arguments)])
    if of and study:
        name = study
    else:  # its fingerprint: of what its runs share, and of the names of its factors
        swept = _swept([run.overrides for run in runs])
        own = [with_home(word) for word in first.overrides]
        fixed = sorted(word for word in own if _setting(word) not in swept | _AXES)
        name = f"multirun-{fingerprint('multirun', fixed, sorted(swept - _AXES))[:8]}"
    folder = Path(first.run.root).expanduser() / "studies" / name
    students: list[StudentStage] = []
    for run in runs:
        students.append(recipe_of(run, students))
    if of and not of.study.compares_signals:
        _check_signals(runs, students)
    kept = read_kept(folder)
    jobs = _jobs(runs, students, arguments, kept)
    if first.run.mode is Mode.plan:
        from dwt_cli.recipe.study_plan import print_study_plan  # loads torch

        ranks = first.launch.num_ranks
        print_study_plan(students, jobs, first.run, ranks, name, console, on_record=kept)
        return 0
    if of:
        said = replace(of.study, arms=without_home(of.study.arms))
        asked = StudyRecord(**vars(said), name=name, command=command)
    else:
        arms = {job.arm: job.arm for job in jobs}
        pairs = zip(runs, jobs, strict=True)
        alone = {job.arm for run, job in pairs if not any(run.teacher.each())}
        baseline = alone.pop() if len(alone) == 1 else None
        asked = StudyRecord(
            question="", baseline=baseline, arms=arms, exploratory=[*arms],
            name=name, command=command,
        )  # fmt: skip
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.take(folder / LOCK)
    except locks.Held as holder:
        raise UserError(f"{holder} is at work on {folder}: wait for it, or stop it") from holder
    with lock:
        ledger, steps = _Ledger(folder, asked, jobs, say), {}
        decision = folder / "compile.json"
        for run, job in zip(runs, jobs, strict=True):
            again = run.run.mode is not Mode.train or not run.eval.is_plain
            file = folder / "logs" / f"{job.identity}.json"
            if file.stem not in steps and (job.state != "finished" or (again and job.folder)):
                steps[file.stem] = float(run.train.num_steps(None) or 1)
                tags = [f"arm={job.arm}", f"seed={job.seed}", f"length={job.length}"]
                labelled = replace(run, tracker=run.tracker.labelled(name, tags))
                if run.train.compile == "auto":
                    shared = replace(run.train, compile_with=str(decision))
                    labelled = replace(labelled, train=shared)
                file.write_text(packing.packed(labelled), encoding="utf-8")
        num_done = len({job.identity for job in jobs}) - len(steps)
        asks = any(run.train.compile == "auto" for run in runs)
        if asks and "compiled" not in (atomic.read_json(decision) or {}):
            # the first run that can tell decides for all
            why = _why_plain(runs, num_done)
            known = {"compiled": False, "why": why} if why else {"num_runs": len(steps)}
            atomic.write_json(decision, known)
        if steps:
            for line in _others(read_kept(folder), students):
                say(f"warning: {line}")
        files = [folder / "logs" / f"{identity}.json" for identity in steps]
        try:
            with Overview(console, name, steps, num_done) as overview:
                for file, state, error in pool.carry_out(files, first.jobs, begin):
                    place, title = ledger.note(file.stem, state, without_home(error))
                    if state == "running":
                        overview.at_work(file.stem, title, place)
                    else:
                        found = read_summary(place)
                        loss = found.student.loss if found else None
                        overview.ended(file.stem, title, error, loss)
        finally:
            for job in [*ledger.jobs.values()]:
                if job.state == "running":
                    ledger.note(str(job.identity), "missing")
        failed = [job for job in map(ledger.jobs.__getitem__, map(_key, jobs)) if job.error]
        for job in failed:
            say(f"failed: {_title(job)}: {job.error}")
        if not reports:
            return MISTAKE if failed else 0
        results = read_results(folder)
        print_report(console, results, write_report(folder, results))
        show(results, folder, first.tracker, say)
    return MISTAKE if failed else 0


def _check_signals(runs: Sequence[Run], students: Sequence[StudentStage]) -> None:
    """Check that all arms that ask a model have a cached signal, or none: else it is compared."""
    named: dict[bool, str] = {}
    for run, student in zip(runs, students, strict=True):
        asks = any(each.is_model or each.is_elsewhere for _, each in run.teacher.each())
        if asks and not student.alpha.soft_is_over(Moment(0.0)):
            named.setdefault(student.cached is not None, run.of_study.arm if run.of_study else "")
    if len(named) > 1:
        raise UserError(
            f"signal: the teacher of arm={named[True]} is asked once, that of arm={named[False]} "
            "in each step: set one signal for all arms, or study.compares_signals=true"
        )


class _Ledger:
    """study.json while the runs are carried out: those of earlier commands stay in it."""

    def __init__(
        self, folder: Path, asked: StudyRecord, jobs: Sequence[Job], say: Callable[[str], None]
    ) -> None:
        before: Sequence[Job] = ()
        if any((folder / name).exists() for name in (FILE, RUNS)):
            try:
                before = read_study(folder).jobs
            except UserError as error:  # torn, or of another version
                say(f"warning: {error}")
        named = [replace(job, arm=without_home(job.arm)) for job in before]
        kept = {_key(job): job for job in named if job.arm in asked.arms}
        self._folder, self._asked = folder, asked
        self.jobs = kept | {_key(job): job for job in jobs}
        self._write()

    def note(
        self, identity: str, state: State, error: str | None = None
    ) -> tuple[Path | None, str]:
        """Note what has become of a run, in every arm that it is; return its folder and title."""
        place = find(self._folder.parent.parent, identity)
        before = {key: job for key, job in self.jobs.items() if job.identity == identity}
        now = {
            key: replace(job, state=state, error=error, folder=_from(place))
            for key, job in before.items()
        }
        if now != before or state == "finished":
            self.jobs |= now
            self._write(anew=identity)
        return place, _title(next(iter(now.values())))

    def _write(self, anew: str | None = None) -> None:
        jobs = tuple(self.jobs[key] for key in sorted(self.jobs))
        study = replace(self._asked, jobs=jobs)
        write_study(self._folder, study)
        keep(self._folder, study, anew)


def _key(job: Job) -> tuple[str, int, int]:
    return job.arm, job.length, job.seed


def _title(job: Job) -> str:
    return f"{job.arm}, length {job.length}, seed {job.seed}"


def _from(place: Path | None) -> str | None:
    """Return a run's folder as seen from the study's."""
    return f"../../{place.name}" if place else None


# ---------------------------------------------------------------------------- what was asked for


def _jobs(
    runs: Sequence[Run],
    students: Sequence[StudentStage],
    arguments: Sequence[str],
    kept: Container[str],
) -> list[Job]:
    """Return the job that each run is, as it stands on record. kept: identities in runs.jsonl."""
    swept = _swept([run.overrides for run in runs])
    # how each run is asked for by itself: the options of the command, and of the words its own
    options = [
        word
        for word in arguments
        if (word.startswith("-") or "=" not in word) and word not in ("-m", "--multirun")
    ]
    jobs = []
    for run, student in zip(runs, students, strict=True):
        root, words = Path(run.run.root).expanduser(), tuple(run.overrides)
        known = (recorded_as(root, student), student.formerly)
        identity = next((each for each in known if each and each in kept), known[0])
        place = find(root, identity)
        is_done = identity in kept or (place and (place / "summary.json").is_file())
        state: State = "finished" if is_done else "missing"
        if of := run.of_study:
            arm, length, words = of.arm, of.length, (*options, *of.asked_by)
        else:
            arm = (
                " ".join(_without_places(w for w in words if _setting(w) in swept - _AXES)) or "run"
            )
            length = run.train.max_steps or 0
        words = _without_places(words)
        jobs.append(Job(arm, length, run.seed, words, identity, _from(place), state))
    return jobs


def _others(kept: Mapping[str, Said], students: Sequence[StudentStage]) -> Iterator[str]:
    """Yield a line for the runs on record of another commit, and one for those of another text."""
    now, corpora = commit(), [student.corpus for student in students]
    texts = {known for text in corpora for known in (text.identity, text.formerly)}
    commits = [str(said["environment"].get("commit")) for said in kept.values()]
    fingerprints = [said["summary"]["corpus"]["fingerprint"] for said in kept.values()]
    for what, of_runs, here, then in (
        ("commit", commits, {now}, f"this is {now}, which the report will tell apart"),
        ("text", fingerprints, texts, "only those of the text that most have are compared"),
    ):
        if others := [each for each in of_runs if each not in here]:
            named = ", ".join(sorted({*others}))
            yield f"{len(others)} runs on record are of another {what}, {named}: {then}"


def _why_plain(runs: Sequence[Run], num_done: int) -> str | None:
    """Return why no run of a study is compiled, if one of them cannot be or is finished."""
    for run in runs:
        is_computed = bool(over_features(run.objective)) or run.tuning.freezes
        if run.parallel.sharding(run.launch.num_ranks) or is_computed:
            return "off: a run of the study is sharded, compares features or is tuned in part"
    return f"off: {num_done} finished before, compiled or not" if num_done else None


def _swept(every: Sequence[Sequence[str]]) -> set[str]:
    """Return the settings that are not the same in all runs, from the words of each."""
    same = set.intersection(*map(set, every))
    return {_setting(word) for words in every for word in set(words) - same}


def _without_places(words: Iterable[str]) -> tuple[str, ...]:
    """Return words as others may read and type them."""
    return tuple(without_home(word) for word in words if _setting(word) not in _PLACES)


def _setting(word: str) -> str:
    return word.partition("=")[0]
