"""A run that is finished: what it is compared with, and how it is shown again. Loads no torch."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from dwt_cli.base import atomic
from dwt_cli.config.chain import quoted
from dwt_cli.config.run import DISTILLATION, Mode, Run
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.record import find, read_summary, readable, recorded_as, summary_of
from dwt_cli.recipe.student import StudentStage
from dwt_cli.track.display import plain_line
from dwt_cli.track.metrics import first_at, heldout_losses, read_lines
from dwt_cli.track.summary import Summary
from dwt_cli.track.told import print_summary

NOTHING_TO_DO = "this run is finished; run.fresh=true starts it anew"


def damaged(name: str) -> str:
    """Return the warning for a file of a finished run's record that has changed since."""
    return (
        f"warning: {atomic.told(name, ' of this run')}: put it back, or run.fresh=true trains it "
        "anew"
    )


def show_again(run: Run, console: Console) -> bool:
    """Print the summary of a run that is finished, and return whether it is.

    What there is to write, to measure or to say beyond that is `dwt_cli.recipe.worker`'s.
    """
    root = Path(run.run.root).expanduser()
    name = run.run.name or readable(run.choices, run.overrides, run.seed)
    is_known = any(root.glob(f"{name}-*/summary.json"))  # else its text is not read for this
    if run.run.mode is not Mode.train or not run.eval.is_plain or not is_known:
        return False
    student = recipe_of(run)
    folder = find(root, recorded_as(root, student))
    summary = read_summary(folder)
    if folder is None or summary is None or not (folder / "model").is_dir():
        return False
    if not (folder / atomic.SUMS).is_file():  # it was killed after its summary, or is older
        return False
    changed = atomic.changed(folder)
    if not changed and compared(student, summary, folder) != summary:
        return False
    plain_line(console)(NOTHING_TO_DO)
    if changed:
        plain_line(console)(damaged(changed))
    missing = {} if run.of_study else to_know(run.overrides, student, summary)
    print_summary(console, summary, folder, missing)
    return True


def compared(student: StudentStage, summary: Summary, folder: Path) -> Summary:
    """Return the summary beside stand-alone students, which may be there by now."""
    root = folder.parent
    if not student.teacher or not (found := summary_of(root, student.alone())):
        return summary
    alone, ours = found.student, summary.student
    step = first_at(heldout_losses(read_lines(folder / "metrics.jsonl")), alone.loss)
    steps = student.equal_steps(ours)
    equal = found if steps == ours.steps else None
    if steps not in (None, ours.steps):
        equal = summary_of(root, student.alone(steps))
    return replace(
        summary,
        stand_alone=alone,
        equal_flops=equal.student if equal else None,
        tokens_to_stand_alone=step and step * (ours.tokens or 0) / (ours.steps or 1),
    )


def to_know(overrides: list[str], student: StudentStage, summary: Summary) -> dict[str, str]:
    """Return the commands of stand-alone students that are not there, by what each would tell.

    They learn from the same text, in the same tokens. A study has them among its arms.
    """
    if student.teacher is None:
        return {}
    kept = words_alone(overrides, student)
    found = {}
    if summary.stand_alone is None:
        found["what it brought"] = shlex.join(["dwt-train", *kept])
    steps = student.equal_steps(summary.student)
    if summary.equal_flops is None and steps not in (None, summary.student.steps):
        limits = [f"train.{limit}" for limit in ("max_steps", "epochs", "max_minutes")]
        rest = [word for word in kept if word.partition("=")[0] not in limits]
        train = student.shapes.conditions.train
        rest.append(f"train.max_steps={steps}")
        rest += [f"{limit}=null" for limit in limits[1:] if getattr(train, limit[6:]) is not None]
        found["it at equal FLOPs"] = shlex.join(["dwt-train", *rest])
    return found


def words_alone(words: Sequence[str], student: StudentStage) -> list[str]:
    """Return the words of the same student without its teacher, on the same text and tokens."""
    not_alone = {"teacher", *DISTILLATION, "teacher_steps", "fresh"}
    kept = [
        word
        for word in words
        if not_alone.isdisjoint(re.split(r"[.@]", word.lstrip("+~").partition("=")[0]))
    ]
    opened = student.shapes.checkpoints
    if student.corpus.data.tokenizer is None and opened and opened[0][0] != "student.path":
        kept.append(f"data.tokenizer={quoted(str(student.corpus.tokenizer()))}")
    return ["teacher=none", *kept]
