"""One rank of one run, in plain prose. Read this file first."""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from dwt_cli.base import atomic, ranks
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import plain
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import Ranks
from dwt_cli.config.run import Run, checkpoints
from dwt_cli.evaluate import measures
from dwt_cli.models.checkpoint import save_model
from dwt_cli.recipe import preflight, recipe
from dwt_cli.recipe.evaluate import evaluate_run
from dwt_cli.recipe.plan import print_plan
from dwt_cli.recipe.recipe import Recipe
from dwt_cli.recipe.record import Record, find, readable, summary_of
from dwt_cli.track.card import model_card
from dwt_cli.track.curves import draw_curves
from dwt_cli.track.display import Display, plain_line
from dwt_cli.track.options import Entry
from dwt_cli.track.schedule import draw_schedule
from dwt_cli.track.summary import compared, print_summary, summarise


def work(run: Run, console: Console) -> None:
    """Do what a run asks for, from wherever an earlier start of it has come to.

    Every rank is here; the first one writes and prints. Raises `UserError` for a mistake,
    KeyboardInterrupt when it was asked to stop.
    """
    with ranks.joined(run.launch.device, run.launch.max_wait) as together:
        _work(run, console if together.is_first else Console(quiet=True), together)


def _work(run: Run, console: Console, ranks: Ranks) -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    say = plain_line(console)
    if run.run.schedule:
        picture = Path(run.run.root).expanduser() / f"schedule-{run.choices['alpha']}.png"
        draw_schedule(run.alpha, run.optim, run.objective, run.choices, picture)
        say(f"schedule: {picture}")
        return
    if run.run.plan:
        print_plan(run, ranks, console)
        return
    machine = Machine.of(run.launch.device, run.launch.num_threads, run.train.precision, ranks)
    run.train.num_parts(ranks.size)
    cache = Cache(run.run.cache, say)
    plan = Recipe(run, machine, cache, ranks)
    preflight.check(run, machine, ranks.size)
    measures.check(run.eval)
    if run.run.export:
        _export(run, plan, console)
        return
    ranks.agree(
        {
            "text": plan.corpus_id,
            "teacher": list(plan.teachers.identities()),
            "run": plan.student_id,
            **machine.describe()["versions"],
        }
    )
    if not ranks.is_first:
        _take_part(plan)
        return
    with Record(run, plan.student_id) as record:
        if run.run.fresh and any(record.folder.glob("[!.]*")):
            say(f"what was there is kept as {record.set_aside()}")
        at_work = None if record.summary else str(record.folder)
        ranks.from_first("the record", lambda: at_work)
        if at_work is None:
            say("this run is finished; run.fresh=true starts it anew")
            assert record.summary is not None
            record.finish(_compared(run, plan, record, record.summary))
        else:
            try:
                with atomic.needing_room(record.folder):
                    _carry_out(run, plan, machine, record, console)
            except KeyboardInterrupt:
                with contextlib.suppress(OSError):
                    record.status("interrupted")
                raise
            except Exception as error:
                with contextlib.suppress(OSError):  # the disk may be what is full
                    record.status("failed", error=str(error).split("\n")[0])
                raise _in_plain_words(error) from error
        assert record.summary is not None
        print_summary(console, record.summary, record.folder, _alone_command(run))
        evaluate_run(run, plan, machine, cache, record.folder, console)


def _carry_out(run: Run, plan: Recipe, machine: Machine, record: Record, console: Console) -> None:
    started = time.perf_counter()
    say = plain_line(console)
    for difference in record.start(machine.describe()):
        say(f"warning: {difference}")
    entry = Entry(record.folder, record.identity, record.name, plain(run))
    with run.tracker.open(entry, say) as dashboard:
        with Display(console, plan.work()) as display:
            corpus = plan.corpus(display)
            teacher = plan.teacher(corpus, display)
            student = plan.student(corpus, teacher, display, record.folder)
        summary = summarise(
            {
                "name": record.name,
                "identity": record.identity,
                "choices": run.choices,
                "seed": run.seed,
                "seconds": time.perf_counter() - started,
                "peak_memory_gb": machine.peak_memory_gb(),
                "corpus": {"fingerprint": plan.corpus_id, **corpus.report},
            },
            student.facts,
            teacher.facts if teacher else None,
        )
        save_model(student.take(), corpus, record.folder / "model")
        atomic.write_text(record.folder / "model" / "README.md", model_card(summary, plain(run)))
        summary = _compared(run, plan, record, summary)
        record.finish(summary)
        if command := dashboard.finish():
            record.finish({**summary, "sync": command})


def _compared(run: Run, plan: Recipe, record: Record, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary and the curves beside the stand-alone student's, who may have come later."""
    if not recipe.is_stand_alone(run) and (
        stand_alone := summary_of(record.folder.parent, plan.stand_alone_id)
    ):
        summary = compared(summary, stand_alone)
    references = {"stand-alone": summary["stand_alone"], "teacher": summary["teacher"]}
    draw_curves(
        record.folder / "metrics.jsonl",
        record.folder / "curves.png",
        record.name,
        {name: facts["heldout"]["loss"] for name, facts in references.items() if facts},
    )
    return summary


def _take_part(plan: Recipe) -> None:
    """What the other ranks do: the same stages, and nothing is written."""
    folder = plan.shop.ranks.from_first("the record", lambda: None)
    if folder is None:
        return
    with Display(Console(quiet=True), plan.work()) as display:
        corpus = plan.corpus(display)
        teacher = plan.teacher(corpus, display)
        plan.student(corpus, teacher, display, Path(folder))


def _export(run: Run, plan: Recipe, console: Console) -> None:
    """The model of the newest checkpoint, in the hub's format; nothing is trained."""
    say = plain_line(console)
    folder = find(Path(run.run.root).expanduser(), plan.student_id)
    if folder is None or not any(folder.glob("checkpoints/step-*")):
        raise UserError(
            f"run.export=true: {folder or 'this run'} has no checkpoint yet; "
            "train first, with the same command without run.export=true"
        )
    with Record(run, plan.student_id), atomic.needing_room(folder):
        with Display(console, {"corpus": 0.0}) as display:
            corpus = plan.corpus(display)
        student, teacher = plan.student_so_far(corpus, folder, say), plan.teachers.known_facts()
        place = folder / f"export-step-{student.facts['steps']}"
        aside = folder / ".export"
        shutil.rmtree(aside, ignore_errors=True)
        save_model(student.take(), corpus, aside)
        about = {
            "name": readable(run),
            "identity": plan.student_id,
            "choices": run.choices,
            "seed": run.seed,
            "student": student.facts,
            "teacher": teacher,
        }
        atomic.write_text(aside / "README.md", model_card(about, plain(run)))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(aside, place)
        say(f"model after step {student.facts['steps']}: {place}")


def _alone_command(run: Run) -> str:
    """The command of the stand-alone student on the same text, in the same tokens."""
    about_teaching = {"teacher", "alpha", "remap", "objective", "revise", "select"}
    kept = [
        override
        for override in run.overrides
        if about_teaching.isdisjoint(re.split(r"[.@]", override.lstrip("+~").partition("=")[0]))
    ]
    opened = [setting for setting, _ in checkpoints(run)]
    if run.data.tokenizer is None and opened and opened[0] != "student.path":
        kept.append(f"data.tokenizer={preflight.tokenizer_path(run)}")
    return " ".join(["dwt-train", "teacher=none", *kept])


def _in_plain_words(error: Exception) -> Exception:
    """Running out of memory is a setting's fault; everything else stays what it is."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
        return UserError(
            "out of memory: lower train.micro_batch_size (the result stays the same, to "
            "rounding) or choose a smaller scale"
        )
    return error
