"""The ladder of ``dwt-advise``: short runs of every arm, and what they say of a long one.

The runs are a study's, in ``<run.root>/studies/advice-<fingerprint>/``, each a whole run with its
own schedule: a trunk with branches would be a quarter cheaper, and forecast another schedule than
the final run's. How long they are follows from the first one's speed; it is decided once and kept
in advice.json, so that a ladder that was stopped goes on.
"""

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rich.console import Console

from dwt_cli.base import atomic, locks
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.machine import Machine, commit
from dwt_cli.config import check
from dwt_cli.config.advise import FEWEST_STEPS, LENGTHS, Advising, Rung
from dwt_cli.config.compose import runs_of
from dwt_cli.config.run import Mode, Run
from dwt_cli.launch import pool, sweep
from dwt_cli.launch.recorded import listening, on_record
from dwt_cli.launch.start import Begin
from dwt_cli.recipe import preflight
from dwt_cli.recipe.finished import words_alone
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import recorded_as
from dwt_cli.recipe.student import StudentStage
from dwt_cli.recipe.worker import let_transformers_be_quiet
from dwt_cli.study.advice import ALONE, WHAT, Advice, Budget, advise
from dwt_cli.study.advice_page import print_advice, write_page
from dwt_cli.study.law import choices, simplest
from dwt_cli.study.outlook import Outlook
from dwt_cli.study.record import StudyOptions
from dwt_cli.study.recorded import by_record
from dwt_cli.study.report import write_report
from dwt_cli.study.results import Results, read_results
from dwt_cli.study.scored import keep_forecast
from dwt_cli.track.display import plain_line

_OWN = ("advise", "jobs")  # groups that no run by itself has a use for
_OF_LADDERS = ("advise.seeds", "advise.share")
_OF_PLANS = ("run.peak_tflops", "run.mfu", "run.plan")
_LENGTHS = (
    *("scale.max_steps", "scale.epochs"),
    *("train.max_steps", "train.epochs", "train.max_minutes"),
)
_NO_RESULT = ("run", "jobs", "tracker")
_EVERY = "'${steps:${scale.max_steps},0.1666667}'"  # as in studies: at shares of the run
_RULES = ("stack", "decorrelated", "aki", "net2net", "tile")  # from the second on: of a narrower
_NOMINAL = 1000  # steps of a run by which an arm is checked and charged
_OF_MODELS = ("scale.vocab_size", "scale.block_length")  # taken from a teacher that is opened
_VERSION = 1


@dataclass(frozen=True)
class _Arms:
    """The arms' commands. words: of each, without length and seed. beside: a folder of configs."""

    words: Mapping[str, Sequence[str]]
    limits: Sequence[str]
    beside: str | None

    def runs(self, arm: str, lengths: Sequence[int], seeds: Sequence[int]) -> list[Run]:
        """Return the runs of an arm, composed and checked."""
        steps, each = ",".join(map(str, lengths)), ",".join(map(str, seeds))
        own = [f"scale.max_steps={steps}", *self.limits, f"seed={each}"]
        if not any(word.startswith("scale.eval_every=") for word in self.words[arm]):
            own.append(f"scale.eval_every={_EVERY}")
        runs, _ = runs_of([*self.words[arm], *own], folder=self.beside, is_multirun=True)
        for run in runs:
            check.check(run)
        return runs

    def final(self, arm: str, steps: int, seed: int) -> list[str]:
        """Return the words of the whole run of an arm."""
        own = [f"scale.max_steps={steps}", *self.limits, f"seed={seed}"]
        if not any(word.startswith("scale.eval_every=") for word in self.words[arm]):
            own.append(f"scale.eval_every={max(1, round(steps / 6))}")
        return [*self.words[arm], *own]


def carry_out(
    asked: Advising,
    typed: Sequence[str],
    beside: str | None,
    arguments: Sequence[str],
    console: Console,
    begin: Begin,
) -> int:
    """Climb the ladder as far as is missing, and print what it says; return the exit code.

    typed: the words of the command, of which arguments is the whole. beside: a folder with configs
    beside ``conf/``. begin: starts a process.
    Raises `UserError` for a mistake, before any run begins; KeyboardInterrupt when it was asked to
    stop.
    """
    say, options, root = plain_line(console), asked.advise, Path(asked.run.root).expanduser()
    _refuse(asked, typed)
    for setting in {_setting(word) for word in typed} & {*_OF_LADDERS}:
        if options.record:
            print(f"warning: {setting} has no effect with advise.record", file=sys.stderr)
    of_runs = [word for word in typed if _setting(word) not in _OF_PLANS]
    of_runs = [word for word in of_runs if _group(word) not in _OWN and _setting(word) != "seed"]
    arms, firsts = _arms(asked, of_runs, beside, say)
    costs = {arm: _a_step(student) for arm, student in firsts.items()}
    seeds = range(asked.seed, asked.seed + options.seeds)
    determining = sorted(word for word in typed if _group(word) not in _NO_RESULT)
    name = f"advice-{fingerprint('advice', determining)[:8]}"
    folder = root / "studies" / name
    plans = asked.run.mode is Mode.plan
    record = on_record(options.record, say) if options.record else None
    if record is not None and not options.is_time:
        least = FEWEST_STEPS * costs["taught"]
        if options.amount < least:
            raise UserError(
                f"advise.budget={options.budget}: the run of {FEWEST_STEPS} steps that measures "
                f"takes {least:.2g} FLOPs; give more"
            )
    outlook = None if record is None or plans else Outlook(simplest(choices(record)), record)
    study = StudyOptions(
        question=f"Does a teacher pay with {options.text}?",
        baseline=ALONE,
        arms={arm: shlex.join(words) for arm, words in arms.words.items()},
        exploratory=list(arms.words),
    )

    def climb(each: Sequence[str], lengths: Sequence[int], of: Sequence[int]) -> int:
        rungs = [
            _rung(run, study, arm, asked) for arm in each for run in arms.runs(arm, lengths, of)
        ]
        return sweep.carry_out(
            rungs, name, [*arguments], console, begin, program="dwt-advise", reports=False
        )

    def answered(results: Results, advice: Advice) -> None:
        """Keep and print what is advised, with the commands of the whole runs."""
        finals = {}
        for each in advice.forecasts:
            words = arms.final(each.arm, each.steps, asked.seed)
            (run,), _ = runs_of(words, folder=beside)
            command = shlex.join(["dwt-train", *_beside(beside), *words])
            finals[each.arm] = command, recorded_as(root, recipe_of(run))
        commands = {arm: command for arm, (command, _) in finals.items()}
        keep_forecast(folder, advice, finals, commit())
        paths = write_page(folder, results, advice, commands)
        print_advice(console, advice, commands[advice.best.arm], paths[:1])

    lock: AbstractContextManager[object] = nullcontext()
    try:
        if not plans:
            folder.mkdir(parents=True, exist_ok=True)
            lock = locks.take(folder / ".advice.lock")
    except locks.Held as holder:
        raise UserError(f"{holder} is at work on {folder}: wait for it, or stop it") from holder
    with lock:
        if options.record:
            say(f"a run of {FEWEST_STEPS} steps measures the teacher and the speed")
            code = climb(["taught"], [FEWEST_STEPS], seeds[:1])
            if outlook and not code:
                results = read_results(folder)
                told = _told(asked) or _measured(folder)
                budget = Budget(options.text, options.is_time, options.flops(told), told)
                heard = listening(firsts["taught"].alpha)
                answered(results, by_record(outlook, results, list(arms.words), heard, budget))
            return code
        decided = atomic.read_json(folder / "advice.json") or {}
        if decided.get("version") != _VERSION:
            speed = _told(asked)
            if speed is None and plans:
                raise UserError(
                    "run.plan=true: before the first run nobody knows how fast it is; give "
                    "run.peak_tflops, of the device in its number type"
                )
            if speed is None:
                say(f"the first run, of {FEWEST_STEPS} steps, is to say how fast this machine is")
                if code := climb([ALONE], [FEWEST_STEPS], seeds[:1]):
                    return code
                speed = _measured(folder)
            shortest = options.shortest(sum(costs.values()), speed)
            decided = {
                "version": _VERSION,
                "lengths": [shortest * each for each in LENGTHS],
                "speed": speed,
            }
            if not plans:
                atomic.write_json(folder / "advice.json", decided)
        lengths, speed = decided["lengths"], decided["speed"]
        budget = Budget(options.text, options.is_time, options.flops(speed), speed)
        takes = sum(lengths) * len(seeds) * sum(costs.values())
        say(
            f"the ladder: {', '.join(arms.words)}; {', '.join(map(str, lengths))} steps; "
            f"{len(seeds)} seeds: {len(costs) * len(lengths) * len(seeds)} runs take "
            f"{budget.shown(takes)} at most, {takes / budget.flops:.1%} of {options.text}"
        )
        if (made := firsts["taught"].teacher) is not None:
            trained = sum(stage.cost({}) or 0.0 for stage in (*made.members, made))
            if trained:
                say(f"the teacher is trained first: {budget.shown(trained)}, which is not counted")
        code = climb(list(arms.words), lengths, seeds)
        if code:
            say("the ladder is not whole: the same command goes on, and then says what it advises")
        if code or plans:
            return code
        results = read_results(folder)
        speed = _told(asked) or _measured(folder)
        budget = Budget(budget.text, budget.is_time, options.flops(speed), speed)
        advice = advise(results, lengths, budget)
        write_report(folder, results)
        answered(results, advice)
    return 0


def _refuse(asked: Advising, typed: Sequence[str]) -> None:
    """Raise `UserError` for what an advice cannot be about."""
    for problem in (
        *check.outside_ranges(asked.advise, "advise"),
        *asked.advise.problems("advise"),
    ):
        raise UserError(problem)
    mode = asked.run.mode
    if not (mode is Mode.train or mode is Mode.plan):
        raise UserError(f"run.{mode.name}=true: it is about one run; leave it out")
    for word in typed:
        if _setting(word) in _LENGTHS:
            raise UserError(f"{word}: how long is what advise.budget says; leave it out")
    if not any(asked.teacher.each()):
        raise UserError(
            "teacher=none: it is a teacher that is asked about; name it, as in teacher=checkpoint "
            "teacher.path=DIR"
        )
    if asked.choices.get("alpha") == "off":
        raise UserError(
            "alpha=off: whether to listen is what is asked; leave it out, or choose the weights to "
            "try"
        )
    if asked.task.labelled:
        raise UserError(
            f"task={asked.choices['task']}: what is forecast is a language model's loss; choose "
            "task=mlm or clm"
        )
    if asked.run.name is not None:
        raise UserError(f"run.name={asked.run.name}: it is of one run; leave it out")
    if asked.jobs.clone:
        raise UserError(f"jobs.clone={asked.jobs.clone}: it is for dwt-train; leave it out")
    if asked.launch.job and not asked.launch.job.wait:
        raise UserError("launch.wait=false: a ladder waits for its runs; leave it out")
    pool.check(asked)
    check.check_folders(asked.run)


def _arms(
    asked: Advising, typed: Sequence[str], beside: str | None, say: Callable[[str], None]
) -> tuple[_Arms, dict[str, StudentStage]]:
    """Return the arms that there are, and the stage of each one's shortest run.

    Raises `UserError` where the student cannot listen to this teacher; where it cannot grow from
    it, that is said and left out.
    """
    limits = [] if asked.scale.epochs is None else ["scale.epochs=null"]
    let_transformers_be_quiet()
    machine = Machine.of(asked.launch.device, asked.launch.num_threads, asked.train.precision)
    listens = [word for word in typed if _group(word) == "alpha"] or ["alpha=overtake"]
    grows = [word for word in typed if _group(word) == "remap"]
    plain = [word for word in typed if _group(word) not in ("alpha", "remap")]
    firsts: dict[str, StudentStage] = {}
    runs: dict[str, Run] = {}
    words: dict[str, list[str]] = {}

    def tried(arm: str, own: list[str]) -> None:
        arms = _Arms({arm: own}, limits, beside)
        (run,) = arms.runs(arm, [_NOMINAL], [asked.seed])
        student = recipe_of(run)
        scale = run.choices.get("scale", "")
        preflight.check(student, machine, run.launch.num_ranks, run.run.root, scale)
        words[arm], firsts[arm], runs[arm] = own, student, run

    tried("taught", [*plain, *listens])
    known = [word for word in runs["taught"].overrides if _setting(word) in _OF_MODELS]
    found = [word for word in known if word not in plain]
    tried(ALONE, words_alone([*plain, *found], firsts["taught"]))
    if firsts[ALONE].identity != firsts["taught"].alone().identity:
        raise UserError(
            f"teacher={asked.choices['teacher']}: alone, the student would read other tokens; set "
            "data.tokenizer, which both then read by"
        )
    rules = [grows] if grows else [[f"remap={rule}"] for rule in _RULES]
    if not grows:
        rules += [[*rule, "remap.vocabulary=transfer"] for rule in rules]
    why = ""
    for rule in rules:
        try:
            tried("grown", [*plain, "alpha=off", *rule])
            if not firsts["grown"].shapes.remap.needs_teacher:
                raise UserError(f"{' '.join(rule)}: nothing grows by it")
        except UserError as error:
            why = why or str(error)
            words.pop("grown", None)
            continue
        try:
            tried("both", [*plain, *listens, *rule])
        except UserError as error:
            say(f"both is left out: {error}")
        break
    else:
        say(f"grown and both are left out: {why}")
    for line in dict.fromkeys(runs["taught"].found):
        print(line, file=sys.stderr)
    order = [arm for arm in WHAT if arm in words]
    first, *others = [[*check.warnings(runs[arm])] for arm in order]
    in_all = [line for line in first if all(line in lines for lines in others)]
    for line in (*check.repeated(typed), *in_all):
        print(f"warning: {line}", file=sys.stderr)
    return _Arms({arm: words[arm] for arm in order}, limits, beside), {a: firsts[a] for a in order}


def _rung(run: Run, study: StudyOptions, arm: str, asked: Advising) -> Rung:
    """Return a run of the ladder, in the mode and with the jobs that were asked for."""
    mode = {name: getattr(asked.run, name) for name in ("plan", "peak_tflops", "mfu")}
    own = {f.name: getattr(run, f.name) for f in fields(Run)}
    own |= {"jobs": asked.jobs, "run": replace(run.run, **mode)}
    return Rung(**own, study=study, arm=arm, length=run.train.max_steps or 0)


def _a_step(student: StudentStage) -> float:
    """Return the FLOPs of a step, with what is spent on a teacher, its training excepted.

    What is not known before the text is, as the rows of a cached signal, is taken as if it were
    asked in each step.
    """
    made = [student.corpus.name]
    if student.teacher:
        made += [stage.name for stage in (*student.teacher.members, student.teacher)]
    flops, steps = 0.0, student.num_steps({}) or _NOMINAL
    for stage in student.stages:
        if stage.name not in made:
            cost = stage.cost({})
            flops += steps * student.taught_flops({})[1] if cost is None else cost
    return flops / steps


def _told(asked: Advising) -> float | None:
    """Return the FLOPs a second that were said; None: none were."""
    if (peak := asked.run.peak_tflops) is None:
        return None
    return peak * 1e12 * asked.run.mfu * asked.launch.num_ranks


def _measured(folder: Path) -> float:
    """Return the FLOPs a second of the runs that are finished, their teachers' passes counted.

    Their seconds hold evaluations and what else ran beside them: a long run alone is faster.
    """
    runs = read_results(folder).runs
    flops = runs.flops_forward.fillna(runs.flops_student).sum()
    if not flops:
        raise UserError(f"{folder} has no run whose speed is known; give run.peak_tflops")
    return float(flops / runs.student_seconds.sum())


def _beside(folder: str | None) -> list[str]:
    return ["--config-dir", folder] if folder else []


def _setting(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _group(word: str) -> str:
    return re.split(r"[.@]", _setting(word))[0]
