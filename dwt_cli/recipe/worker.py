"""One rank of one run, in plain prose. Read this file first."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from dwt_cli.base import atomic, ranks
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import plain
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.config.run import DISTILLATION, Evaluation, Mode, Run
from dwt_cli.evaluate import measures
from dwt_cli.models.checkpoint import save_model
from dwt_cli.recipe import preflight
from dwt_cli.recipe.evaluate import EvaluationStage, ModelEvaluation, Moments, report_scores
from dwt_cli.recipe.plan import print_plan
from dwt_cli.recipe.recipe import Recipe, recipe_of
from dwt_cli.recipe.record import Label, Record, find, readable, summary_of
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.stage import Done, Site
from dwt_cli.recipe.student import Trained
from dwt_cli.track.card import model_card
from dwt_cli.track.curves import draw_curves
from dwt_cli.track.display import Display, plain_line
from dwt_cli.track.options import Entry, NoTracker, Tracker
from dwt_cli.track.schedule import draw_schedule
from dwt_cli.track.summary import Summary, print_summary


def work(run: Run, console: Console) -> None:
    """Do what a run asks for, from wherever an earlier start of it has come to.

    All ranks do the same; the first one writes and prints. Raises `UserError` for a mistake,
    KeyboardInterrupt when it was asked to stop.
    """
    with ranks.joined(run.launch.device, run.launch.max_wait) as together:
        _work(run, console if together.is_first else Console(quiet=True), together)


def _work(run: Run, console: Console, ranks: Ranks) -> None:
    _let_transformers_be_quiet()
    say, options, root = plain_line(console), run.run, Path(run.run.root).expanduser()
    mode = options.mode
    if mode is Mode.schedule:
        picture = root / f"schedule-{run.choices['alpha']}.png"
        draw_schedule(run.alpha, run.optim, run.objective, run.choices, picture)
        say(f"schedule: {picture}")
        return
    recipe = recipe_of(run)
    if mode is Mode.plan and options.device_gb is not None:
        machine = Machine.elsewhere(options.device_gb, run.train.precision)
    else:
        machine = Machine.of(run.launch.device, run.launch.num_threads, run.train.precision, ranks)
    if mode is Mode.plan:
        print_plan(recipe, options, machine, max(ranks.size, run.launch.num_ranks), console)
        return
    site = Site(machine=machine, cache=Cache(options.cache, say), ranks=ranks)
    run.train.num_parts(ranks.size)
    preflight.check(recipe, machine, ranks.size, options.root, run.choices.get("scale", ""))
    measures.check(run.eval)
    name = readable(run.choices, run.overrides, run.seed)
    label = Label(name, recipe.identity, run.choices, run.seed, plain(run))
    if mode is Mode.export:
        _export(recipe, label, root, site, console)
        return
    ranks.agree(
        {
            "text": recipe.corpus.identity,
            "teacher": recipe.teacher_identities,
            "run": recipe.identity,
            **machine.describe()["versions"],
        }
    )
    with Record(root, label, say, ranks, fresh=mode is Mode.fresh) as record:
        if record.summary is None:
            with _status_of_a_failure(record):
                summary = _train(recipe, label, run.tracker, record, site, console)
        else:
            say("this run is finished; run.fresh=true starts it anew")
            summary = _compared(recipe, record.summary, record.folder, ranks)
            record.finish(summary)
        alone = _alone_command(run.overrides, recipe, run.data.tokenizer)
        print_summary(console, summary, record.folder, alone)
        if not recipe.evaluation.is_idle:
            moments = _measure(recipe.evaluation, record.folder, site, console)
            if ranks.is_first:
                report_scores(
                    moments,
                    record.folder,
                    label.identity,
                    label.settings,
                    run.tracker,
                    machine,
                    console,
                )


def _train(
    recipe: Recipe, label: Label, tracker: Tracker, record: Record, site: Site, console: Console
) -> Summary:
    """Go through the stages; return the summary of what came of them."""
    started, machine, say = time.perf_counter(), site.machine, plain_line(console)
    for difference in record.start(machine.describe()):
        say(f"warning: {difference}")
    folder, first = record.folder, site.ranks.is_first
    entry = Entry(folder, label.identity, label.name, label.settings)
    with (tracker if first else NoTracker()).open(entry, say) as dashboard:
        done: Done = {}
        with Display(console) as show:
            context = site.at(folder, show)
            for stage in recipe.stages:
                show.expect(recipe.costs(done, site.cache))
                done[stage.name] = stage.carry_out(done, context)

        corpus, student = done[recipe.corpus.name], done[recipe.student.name]
        summary = Summary(
            name=label.name,
            identity=label.identity,
            choices=label.choices,
            seed=label.seed,
            seconds=time.perf_counter() - started,
            peak_memory_gb=machine.peak_memory_gb(),
            corpus={"fingerprint": recipe.corpus.identity, **corpus.report},
            student=student.facts,
            teacher=done[recipe.teachers[-1].name].facts if recipe.teachers else None,
        )
        if first:
            save_model(student.model, corpus.tokenizer, folder / "model")
            card = model_card(summary.to_json(), label.settings, recipe.corpus.task)
            atomic.write_text(folder / "model" / "README.md", card)
        summary = _compared(recipe, summary, folder, site.ranks)
        record.finish(summary)
        if command := dashboard.finish():
            summary = replace(summary, sync=command)
            record.finish(summary)
    return summary


def _compared(recipe: Recipe, summary: Summary, folder: Path, ranks: Ranks) -> Summary:
    """Return the summary beside the stand-alone student's, which may be there by now.

    The curves are drawn beside its too.
    """
    if not ranks.is_first:
        return summary
    if recipe.teachers and (alone := summary_of(folder.parent, recipe.stand_alone)):
        summary = replace(summary, stand_alone=alone.student)
    references = {"stand-alone": summary.stand_alone, "teacher": summary.teacher}
    draw_curves(
        folder / "metrics.jsonl",
        folder / "curves.png",
        summary.name,
        {name: facts.loss for name, facts in references.items() if facts},
        recipe.corpus.task.unit,
    )
    return summary


def _measure(stage: EvaluationStage, folder: Path, site: Site, console: Console) -> Moments:
    with Display(console, dict.fromkeys(stage.bars, 0.0)) as show:
        return stage.carry_out({}, site.at(folder, show))


def evaluate(run: Evaluation, console: Console) -> None:
    """``dwt-eval``: measure a checkpoint, print the table, and write it below ``run.root``.

    Raises `UserError` when the model cannot be opened, and after all else when something could
    not be measured.
    """
    _let_transformers_be_quiet()
    machine = Machine.of(run.launch.device, run.launch.num_threads, run.train.precision)
    site = Site(machine=machine, cache=Cache(run.run.cache, plain_line(console)), ranks=ALONE)
    measures.check(run.eval)
    stage = ModelEvaluation(
        options=run.eval,
        conditions=Shapes.of(run).conditions,
        path=run.model,
        revision=run.revision,
        data=run.data,
    )
    folder = Path(run.run.root).expanduser() / stage.folder
    moments = _measure(stage, folder, site, console)
    folder.mkdir(parents=True, exist_ok=True)
    identity = f"eval-{stage.identity}"
    report_scores(moments, folder, identity, plain(run), run.tracker, machine, console)


def _export(recipe: Recipe, label: Label, root: Path, site: Site, console: Console) -> None:
    """Save the model of the newest checkpoint, in the hub's format; nothing is trained."""
    say, corpus_stage = plain_line(console), recipe.corpus
    folder = find(root, label.identity)
    if folder is None or not any(folder.glob("checkpoints/step-*")):
        raise UserError(
            f"run.export=true: {folder or 'this run'} has no checkpoint yet; "
            "train first, with the same command without run.export=true"
        )
    with Record(root, label, say, site.ranks), atomic.needing_room(folder):
        with Display(console, {corpus_stage.name: 0.0}) as show:
            context = site.at(folder, show)
            done = {corpus_stage.name: corpus_stage.carry_out({}, context)}
        student: Trained = recipe.student.newest(done, context)
        teacher = recipe.teachers[-1].known_facts(site.cache) if recipe.teachers else None
        place = folder / f"export-step-{student.facts.steps}"
        aside = folder / ".export"
        shutil.rmtree(aside, ignore_errors=True)
        save_model(student.model, done[corpus_stage.name].tokenizer, aside)
        about = {
            "name": label.name,
            "identity": label.identity,
            "choices": label.choices,
            "seed": label.seed,
            "student": student.facts.to_json(),
            "teacher": teacher and teacher.to_json(),
        }
        atomic.write_text(
            aside / "README.md", model_card(about, label.settings, recipe.corpus.task)
        )
        shutil.rmtree(place, ignore_errors=True)
        os.replace(aside, place)
        say(f"model after step {student.facts.steps}: {place}")


def _alone_command(overrides: list[str], recipe: Recipe, tokenizer: str | None) -> str:
    """Return the command of the stand-alone student on the same text, in the same tokens."""
    about_teaching = {"teacher", *DISTILLATION}
    kept = [
        override
        for override in overrides
        if about_teaching.isdisjoint(re.split(r"[.@]", override.lstrip("+~").partition("=")[0]))
    ]
    opened = recipe.shapes.checkpoints
    if tokenizer is None and opened and opened[0][0] != "student.path":
        kept.append(f"data.tokenizer={recipe.corpus.tokenizer()}")
    return " ".join(["dwt-train", "teacher=none", *kept])


@contextlib.contextmanager
def _status_of_a_failure(record: Record) -> Iterator[None]:
    """Record how a run ends that does not come to its end; a full disk is a line of its own."""
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
        raise _in_plain_words(error) from error


def _in_plain_words(error: Exception) -> Exception:
    """Return running out of memory as a mistake in the settings, and any other error as it is."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
        return UserError(
            "out of memory: lower train.micro_batch_size (the result stays the same, to "
            "rounding) or choose a smaller scale"
        )
    return error


def _let_transformers_be_quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
