"""The stages of a chain: each an ordinary run in a process of its own, one after the other.

A stage is composed when those before it are done, for the models that it opens are part of what it
is. So a second start finds what is finished, and words that change do only what follows again.
Until then a model that is not there is stood in for by its configuration, which checks and plans
need. The chain's folder is ``<run.root>/chains/<name>/`` (`dwt_cli.study.chain`).
"""

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from dwt_cli.base import locks
from dwt_cli.base.errors import MISTAKE, UserError
from dwt_cli.base.home import with_home, without_home
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.scratch import scratch
from dwt_cli.config import check, packing
from dwt_cli.config.chain import OF_ALL, Chained, filled, words_of_stages
from dwt_cli.config.compose import runs_of
from dwt_cli.config.launch import Basic
from dwt_cli.config.run import Mode, Run
from dwt_cli.data.corpus import open_tokenizer
from dwt_cli.distill.objective.base import divergences
from dwt_cli.launch import pool
from dwt_cli.launch.start import Begin
from dwt_cli.models.options import located, provenance
from dwt_cli.recipe import preflight
from dwt_cli.recipe.divergence import Known
from dwt_cli.recipe.labelled import LabelledStage
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import LOCK, find, last_part, read_summary, recorded_as
from dwt_cli.recipe.student import StudentStage
from dwt_cli.recipe.worker import let_transformers_be_quiet
from dwt_cli.study.chain import (
    ChainRecord,
    Divergence,
    Link,
    known_divergences,
    print_chain,
    write_chain,
)
from dwt_cli.study.record import Job
from dwt_cli.track.display import Overview, plain_line

_GIVEN = "teacher.path=@teacher"
_PLACES = (*OF_ALL, "launch", "parallel", "tracker")  # no result follows from them


@dataclass(frozen=True)
class _Stage:
    """A stage as it stands. words: what `dwt-train` is told for it."""

    name: str
    words: Sequence[str]
    run: Run
    student: StudentStage

    @property
    def identity(self) -> str:
        return recorded_as(self.root, self.student)

    @property
    def root(self) -> Path:
        return Path(self.run.run.root).expanduser()

    @property
    def folder(self) -> Path | None:
        """Its run's folder; None: there is none yet."""
        return find(self.root, self.identity)

    @property
    def done(self) -> Path | None:
        """Its run's folder, where that is finished."""
        return self.folder if read_summary(self.folder) else None


def carry_out(
    asked: Chained,
    typed: Sequence[str],
    config: tuple[str, str | None],
    arguments: Sequence[str],
    console: Console,
    begin: Begin,
) -> int:
    """Carry out what is missing, and print the table; return the exit code.

    typed: the words of the chain's command. config: the name of its primary config, and the folder
    with configs beside ``conf/``. arguments: the whole command. begin: starts a process.
    Raises `UserError` for a mistake, before any stage begins; KeyboardInterrupt when it was asked
    to stop.
    """
    say, chain, (primary, beside) = plain_line(console), asked.chain, config
    for problem in (*check.outside_ranges(chain, "chain"), *chain.problems("chain")):
        raise UserError(problem)
    words = words_of_stages(
        chain, [word for word in typed if not word.lstrip("+~").startswith("chain.")]
    )
    located("chain.teacher", chain.teacher)
    determining = {
        name: [with_home(word) for word in each if re.split("[.=]", word)[0] not in _PLACES]
        for name, each in words.items()
    }
    name = f"{primary}-{fingerprint('chain', chain.teacher, determining)[:8]}"
    with scratch() as aside:
        stages = _planned(words, chain.teacher, beside, Path(aside))
        _check(asked, stages)
        for line in _remarks(stages, typed):
            print(line, file=sys.stderr)
        links = [_link(stage, words[stage.name]) for stage in stages]
        if (first := stages[0].run).run.mode is Mode.plan:
            from dwt_cli.recipe.study_plan import print_study_plan

            students, jobs = [stage.student for stage in stages], [*map(_job, stages, links)]
            ranks = first.launch.num_ranks
            print_study_plan(students, jobs, first.run, ranks, name, console, kind="stage")
            return 0
    folder = Path(first.run.root).expanduser() / "chains" / name
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.take(folder / LOCK)
    except locks.Held as holder:
        raise UserError(f"{holder} is at work on {folder}: wait for it, or stop it") from holder
    command = shlex.join(without_home(["dwt-train", *arguments]))
    steps = {
        stage.name: float(stage.run.train.num_steps(None) or 1)
        for stage in stages
        if _again(stage.run) or not stage.done
    }
    models, number = {"teacher": chain.teacher}, 0
    measure = _Measure(chain.reference, known_divergences(folder))
    kept = {name: each for name, each in measure.known.items() if name not in steps}
    links = [replace(link, divergence=kept.get(link.name)) for link in links]
    with lock, Overview(console, name, steps, len(stages) - len(steps)) as overview:
        for number, each in enumerate(words):
            stage, error = _composed(each, words[each], models, beside), None
            if each in steps:
                overview.say(f"{each}: {shlex.join(['dwt-train', *stage.words])}")
                error = _work(stage, folder / "logs", name, overview, begin)
            links[number] = replace(_link(stage, words[each]), error=without_home(error))
            if not error:
                models[each] = str(stage.folder)
                links[number] = replace(links[number], divergence=measure(each, stage))
            record = ChainRecord(name, command, tuple(links))
            table = write_chain(folder, record)
            if error:
                break
    print_chain(console, folder, record, table)
    if not error:
        return 0
    say(f"failed: {each}: {error}")
    again = [word for word in arguments if not word.startswith("run.fresh=")]
    say(f"the stages before it stay; to go on: {shlex.join(['dwt-train', *again])}")
    return MISTAKE


@dataclass
class _Measure:
    """The divergence of stages' models from the one that knows the task, once it is there.

    reference: its stage. known: the figures on record, by the stages.
    """

    reference: str | None
    known: Mapping[str, Divergence]
    _stage: _Stage | None = None
    _model: Known | None = None

    def __call__(self, name: str, stage: _Stage) -> Divergence | None:
        """Return that of a stage that is finished; None where there is nothing to compare with."""
        if name == self.reference:
            self._stage = stage
            return None
        if self._stage is None:
            return None
        one, other = (each.folder for each in (self._stage, stage))
        assert one and other, "they are finished"
        models = fingerprint(*(provenance(str(folder)) for folder in (one, other)))
        if (found := self.known.get(name)) and found.models == models:
            return replace(found, run=one.name)
        texts = self._stage.student.corpus
        assert isinstance(texts, LabelledStage), "the stage knows a task"
        let_transformers_be_quiet()
        self._model = self._model or Known(texts, one)
        objectives, hard = stage.run.objective, stage.run.alpha.hard
        values = self._model.divergence(other, bool(divergences(objectives) or hard))
        return Divergence(one.name, models, values)


def _composed(
    name: str, words: Sequence[str], models: Mapping[str, str], beside: str | None
) -> _Stage:
    """Return a stage as the command by itself composes it. models: folders, by stage."""
    whole = filled(words, models)
    (run,), _ = runs_of(whole, folder=beside)
    check.check(run)
    return _Stage(name, whole, run, recipe_of(run))


def _planned(
    words: Mapping[str, Sequence[str]], teacher: str, beside: str | None, aside: Path
) -> list[_Stage]:
    """Return all stages; aside: a folder for what stands in for models that are not there yet."""
    models, stages = {"teacher": teacher}, []
    there = {**models}
    for name, each in words.items():
        stage = _composed(name, each, models, beside)
        shapes = stage.student.shapes
        tokens = shapes.remap.tokens(shapes.conditions.data.vocab_size)
        preflight.check_together(shapes, tokens)
        stages.append(replace(stage, words=filled(each, there)))
        models[name] = str(stage.done or aside / name)
        if stage.done:
            there[name] = models[name]
        else:
            model = shapes.student_model
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(aside / name)
            if (path := stage.student.corpus.tokenizer()) is not None:
                with contextlib.suppress(UserError):  # of a stage that makes its own there is none
                    open_tokenizer(path, ()).save_pretrained(aside / name)
    return stages


def _check(asked: Chained, stages: Sequence[_Stage]) -> None:
    """Raise `UserError` for what only runs by themselves can do, and for grades out of order."""
    run, mode = stages[0].run, stages[0].run.run.mode
    if not (mode.trains or mode is Mode.plan):
        raise UserError(
            f"run.{mode.name}=true: it is about one run; give it to the command of a stage"
        )
    if run.launch.job and not run.launch.job.wait:
        raise UserError("launch.wait=false: a stage waits for the one before; leave it out")
    pool.check(run)
    check.check_folders(run.run)
    if (num_layers := _teacher_layers(stages[0])) is not None:
        for problem in asked.chain.problems_after("chain", num_layers):
            raise UserError(problem)


def _remarks(stages: Sequence[_Stage], typed: Sequence[str]) -> Iterator[str]:
    """Yield what was taken from the first model, and the settings that no stage has use for."""
    yield from stages[0].run.found
    idle, *others = [list(check.warnings(stage.run)) for stage in stages]
    in_all = [line for line in idle if all(line in lines for lines in others)]
    if stages[0].run.jobs.shares_machine:
        in_all.append("jobs.num_parallel has no effect: stages are carried out one after the other")
    yield from (f"warning: {line}" for line in (*check.repeated(typed), *in_all))


def _work(stage: _Stage, logs: Path, group: str, overview: Overview, begin: Begin) -> str | None:
    """Carry a stage out in a process of its own; return the line that it failed with."""
    file, jobs = logs / f"{stage.name}.json", stage.run.jobs
    tracker = stage.run.tracker.labelled(group, [f"stage={stage.name}"])
    file.write_text(packing.packed(replace(stage.run, tracker=tracker)), encoding="utf-8")
    options = Basic() if jobs.shares_machine else jobs
    for _, state, error in pool.carry_out([file], options, begin):
        if state == "running":
            overview.at_work(stage.name, stage.name, stage.folder)
        else:
            found = read_summary(stage.folder)
            if not (error or found):
                error = f"it has left no summary; see {file.with_suffix('.log')}"
            loss = found.student.loss if found else None
            overview.ended(stage.name, stage.name, error, loss)
    return error


def _again(run: Run) -> bool:
    """Return whether a finished run has still something to do."""
    return run.run.mode is not Mode.train or not run.eval.is_plain


def _link(stage: _Stage, words: Sequence[str]) -> Link:
    """Return a stage for the record. words: with models still as ``@NAME``."""
    shapes, outside = stage.student.shapes, None
    inside = any(word.startswith("teacher.path=@") and word != _GIVEN for word in words)
    if shapes.teachers and not inside:
        path = next((each.path for _, each in stage.run.teacher.checkpoints()), "")
        outside = last_part(path) or stage.run.choices["teacher"], _teacher_layers(stage)
    layers, folder = shapes.student_config.num_hidden_layers, stage.folder
    place = f"../../{folder.name}" if folder else None
    return Link(stage.name, layers, tuple(without_home(stage.words)), outside, place)


def _teacher_layers(stage: _Stage) -> int | None:
    """Return the layers of the one model that teaches, as far as they are known."""
    model = stage.student.shapes.teacher_models.get("teacher")
    return getattr(model.config, "num_hidden_layers", None) if model is not None else None


def _job(stage: _Stage, link: Link) -> Job:
    """Return a stage as a plan has it."""
    length, of = stage.run.train.max_steps or 0, (stage.run.seed, (), stage.identity, link.folder)
    return Job(stage.name, length, *of, "finished" if stage.done else "missing")
