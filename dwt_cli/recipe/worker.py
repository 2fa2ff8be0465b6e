"""One rank of one run, in plain prose. Read this file first."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.home import without_home
from dwt_cli.base.identity import plain
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE, Ranks, joined
from dwt_cli.config.run import LONGEST_NAME, Evaluation, Mode, Run
from dwt_cli.evaluate import measures
from dwt_cli.evaluate.samples import samples
from dwt_cli.models.checkpoint import longer_than_trained, save_model
from dwt_cli.models.options import Head
from dwt_cli.recipe import preflight
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.evaluate import measure, measure_run, opened, report_scores, text_for
from dwt_cli.recipe.finished import NOTHING_TO_DO, compared, damaged, to_know
from dwt_cli.recipe.imported import write_prompts
from dwt_cli.recipe.plan import print_plan
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import Record, find, last_part, readable, recorded_as
from dwt_cli.recipe.stage import Done, Site
from dwt_cli.recipe.student import StudentStage
from dwt_cli.track.card import model_card
from dwt_cli.track.display import Display, plain_line
from dwt_cli.track.options import Entry, NoTracker, Tracker
from dwt_cli.track.summary import Summary
from dwt_cli.track.told import print_summary
from dwt_cli.training.rollback import RolledBack


def work(run: Run, console: Console) -> None:
    """Do what a run asks for, from wherever an earlier start of it has come to.

    All ranks do the same; the first one writes and prints. Raises `UserError` for a mistake,
    KeyboardInterrupt when it was asked to stop.
    """
    let_transformers_be_quiet()
    options, mode, root = run.run, run.run.mode, Path(run.run.root).expanduser()
    with joined(run.launch.device, run.launch.max_wait) as ranks:
        console = console if ranks.is_first else Console(quiet=True)
        say = plain_line(console)
        if mode is Mode.schedule:
            from dwt_cli.track.schedule import draw_schedule  # loads matplotlib: here, and below

            picture = root / f"schedule-{run.choices['alpha']}.png"
            draw_schedule(run.alpha, run.optim, run.objective, run.choices, picture)
            say(f"schedule: {picture}")
            return
        student, launch, precision = recipe_of(run), run.launch, run.train.precision
        if mode is Mode.plan and options.device_gb is not None:
            machine = Machine.elsewhere(options.device_gb, precision)
        else:
            machine = Machine.of(launch.device, launch.num_threads, precision, ranks)
        if mode is Mode.plan:
            print_plan(student, options, machine, max(ranks.size, launch.num_ranks), console)
            return
        site = Site(machine, Cache(options.cache, say), ranks)
        run.train.num_parts(ranks.size)
        preflight.check(student, machine, ranks.size, options.root, run.choices.get("scale", ""))
        measures.check(run.eval, run.task.head)
        name = options.name or readable(run.choices, run.overrides, run.seed)
        identity = recorded_as(root, student)
        named = (root, name, identity, plain(run))
        if mode is Mode.export:
            folder = find(root, identity)
            if folder is None or not any(folder.glob("checkpoints/step-*")):
                raise UserError(
                    f"run.export=true: {folder or 'this run'} has no checkpoint yet; "
                    "train first, with the same command without run.export=true"
                )
            with Record(*named, say, ranks) as record, atomic.needing_room(record.folder):
                _export(student, record, site, console)
            return
        if mode is Mode.prompts:
            with Display(console) as show:
                show.expect(student.costs({}, site.cache))
                write_prompts(student, root, site.at(root, show))
            return
        teachers = student.teacher.identities if student.teacher else []
        shared = {"text": student.corpus.identity, "teacher": teachers, "run": student.identity}
        ranks.agree(shared | machine.describe()["versions"])
        with Record(*named, say, ranks, mode is Mode.fresh) as record:
            if record.summary is None:
                with _status_of_a_failure(record):
                    summary = trained(student, run.tracker, record, site, console)
            else:
                say(NOTHING_TO_DO)
                if not (record.folder / "model").is_dir():
                    say(
                        "its model/ is gone: run.export=true saves the model of its newest "
                        "checkpoint, if that is there"
                    )
                if name := ranks.from_first("its sums", lambda: atomic.changed(record.folder)):
                    say(damaged(name))
                    summary = record.summary  # what is drawn of it would hide that
                else:
                    summary = _compared(student, record.summary, record.folder, ranks)
                    record.finish(summary)
            missing = {} if run.of_study else to_know(run.overrides, student, summary)
            print_summary(console, summary, record.folder, missing)
            if ranks.is_first and not run.eval.is_plain:
                costs = dict.fromkeys(("corpus", *run.eval.measures), 0.0)
                with Display(console, costs) as show:
                    at = site.at(record.folder, show)
                    moments = measure_run(student.corpus, student.shapes.conditions, at)
                report_scores(moments, record.entry, run.tracker, machine, console)


def trained(
    student: StudentStage, tracker: Tracker, record: Record, site: Site, console: Console
) -> Summary:
    """Return `train`, begun again after each rollback as after a kill."""
    while True:
        try:
            return train(student, tracker, record, site, console)
        except RolledBack as back:
            plain_line(console)(f"warning: {back}")


def train(
    student: StudentStage, tracker: Tracker, record: Record, site: Site, console: Console
) -> Summary:
    """Go through the stages; return the summary of what came of them."""
    started, machine, say = time.perf_counter(), site.machine, plain_line(console)
    for difference in record.start(machine.describe()):
        say(f"warning: {difference}")
    entry, first = record.entry, site.ranks.is_first
    with (tracker if first else NoTracker()).open(entry, say) as dashboard:
        done: Done = {}
        with Display(console) as show:
            context = site.at(record.folder, show)
            for stage in student.in_turn:
                show.expect(student.costs(done, site.cache))
                done[stage.name] = stage.carry_out(done, context)

        text = student.corpus  # older summaries of it can be compared by what it was formerly
        corpus, trained = done[text.name], done[student.name]
        summary = Summary(
            name=entry.name,
            identity=entry.identity,
            choices=entry.config["choices"],
            seed=entry.config["seed"],
            seconds=time.perf_counter() - started,
            peak_memory_gb=machine.peak_memory_gb(),
            corpus={"fingerprint": text.identity, "formerly": text.formerly} | corpus.report,
            student=trained.facts,
            teacher=done[student.taught_by.name].facts if student.taught_by else None,
        )
        if first:
            if text.task.head is Head.causal:
                summary = replace(summary, samples=samples(trained.model, corpus))
            save_model(trained.model, corpus.tokenizer, record.folder / "model")
            card = model_card(summary.to_json(), entry.config, text.task)
            atomic.write_text(record.folder / "model" / "README.md", card)
        summary = _compared(student, summary, record.folder, site.ranks)
        record.finish(summary)
        if command := dashboard.finish():
            summary = replace(summary, sync=command)
            record.finish(summary)
    return summary


def _compared(student: StudentStage, summary: Summary, folder: Path, ranks: Ranks) -> Summary:
    """Return the summary beside stand-alone students, and draw the curves beside the longer one."""
    if not ranks.is_first:
        return summary
    from dwt_cli.track.curves import draw_curves

    summary = compared(student, summary, folder)
    references = {"stand-alone": summary.stand_alone, "teacher": summary.teacher}
    losses = {name: each.loss for name, each in references.items() if each and each.heldout}
    unit = student.corpus.task.loss_unit
    draw_curves(folder / "metrics.jsonl", folder / "curves.png", summary.name, losses, unit)
    return summary


def evaluate(run: Evaluation, console: Console) -> None:
    """``dwt-eval``: measure a checkpoint, print the table, and write it below ``run.root``.

    Raises `UserError` when the model cannot be opened, and after all else when something could
    not be measured.
    """
    let_transformers_be_quiet()
    machine = Machine.of(run.launch.device, run.launch.num_threads, run.train.precision)
    site = Site(machine, Cache(run.run.cache, plain_line(console)), ALONE)
    measures.check(run.eval, run.task.head)
    model = opened(run.model, run.revision, run.data.tokenizer, run.task, machine)
    identity, corpus = model.tested.identity, text_for(model.tested, run.data, site.cache)
    trained, length = model.tested.tokenizer.model_max_length, corpus.data.block_length
    for line in longer_than_trained(f"model={run.model}", trained, length):
        plain_line(console)(line)
    conditions = Conditions(run.task, run.train, run.optim, run.eval, run.parallel, run.data)
    root, name = Path(run.run.root).expanduser(), run.run.name
    name = name or f"eval-{last_part(run.model)}"[:LONGEST_NAME]
    folder = find(root, identity) or root / f"{name}-{identity}"
    with Display(console, dict.fromkeys((corpus.name, *run.eval.measures), 0.0)) as show:
        moments = {"score": measure(model, corpus, conditions, site.at(folder, show), {})}
    folder.mkdir(parents=True, exist_ok=True)
    entry = Entry(folder, f"eval-{identity}", folder.name, without_home(plain(run)))
    report_scores(moments, entry, run.tracker, machine, console)


def _export(student: StudentStage, record: Record, site: Site, console: Console) -> None:
    """Save the model of the newest checkpoint, in the hub's format; nothing is trained."""
    text, entry, folder = student.corpus, record.entry, record.folder
    with Display(console, {text.name: 0.0}) as show:
        context = site.at(folder, show)
        done = {text.name: text.carry_out({}, context)}
    trained = student.newest(done, context)
    teacher = student.teacher.known_facts(site.cache) if student.teacher else None
    about = {
        "name": entry.name,
        "identity": entry.identity,
        "choices": entry.config["choices"],
        "seed": entry.config["seed"],
        "student": trained.facts.to_json(),
        "teacher": teacher and teacher.to_json(),
    }
    place, aside = folder / f"export-step-{trained.facts.steps}", folder / ".export"
    shutil.rmtree(aside, ignore_errors=True)
    save_model(trained.model, done[text.name].tokenizer, aside)
    atomic.write_text(aside / "README.md", model_card(about, entry.config, text.task))
    shutil.rmtree(place, ignore_errors=True)
    os.replace(aside, place)
    plain_line(console)(f"model after step {trained.facts.steps}: {place}")


@contextlib.contextmanager
def _status_of_a_failure(record: Record) -> Iterator[None]:
    """Record how a run ends that does not come to its end; what is full is a line of its own."""
    try:
        with atomic.needing_room(record.folder):
            yield
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            record.status("interrupted")
        raise
    except Exception as error:
        with contextlib.suppress(OSError):  # the disk may be what is full
            record.status("failed", error=str(error).split("\n")[0])
        no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if no_memory or "allocate memory" in str(error):
            raise UserError(
                "out of memory: lower train.micro_batch_size (the result stays the same, to "
                "rounding) or choose a smaller scale"
            ) from error
        raise


def let_transformers_be_quiet() -> None:
    """Have the library print neither warnings nor bars."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
