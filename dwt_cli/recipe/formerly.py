"""The fingerprints that version 0.2 gave, by which older runs and artifacts are found.

Then every field counted, the parts of a fingerprint had an order and no names, a text had the
identity of its tokenizer's whole folder, and held-out text was masked as the task says. A run
whose held-out masks are others now has no fingerprint here: its numbers cannot be compared.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from dwt_cli.base.identity import former_fingerprint
from dwt_cli.data.corpus import BUILDER_VERSION
from dwt_cli.evaluate.options import Eval
from dwt_cli.models.checkpoint import provenance

if TYPE_CHECKING:
    from dwt_cli.recipe.corpus import CorpusStage, TeachersText
    from dwt_cli.recipe.shapes import Conditions
    from dwt_cli.recipe.student import MapsStage, StudentStage
    from dwt_cli.recipe.teacher import TeacherStage, TrainedStage


def of_corpus(stage: "CorpusStage") -> str:
    """Return the fingerprint of a run's text."""
    path = stage.tokenizer()
    data = replace(stage.data, tokenizer=None)
    tokenizer = path and provenance(path)
    return former_fingerprint("corpus", BUILDER_VERSION, stage.content, data, tokenizer)


def of_teachers_text(stage: "TeachersText", students: "CorpusStage") -> str:
    """Return the fingerprint of a teacher's own text, in the tokens of the student's."""
    own = (stage.content, stage.data, students.formerly)
    return former_fingerprint("teacher's text", BUILDER_VERSION, *own)


def of_teacher(stage: "TrainedStage") -> str | None:
    """Return the fingerprint of a teacher's pre-training; None for other held-out masks."""
    of = stage.conditions
    if _is_masked_otherwise(of):
        return None
    settings = (of.task, of.optim, of.lasting(stage.options.max_steps), _eval(of))
    text = (stage.text or stage.corpus).formerly
    return former_fingerprint("teacher", text, stage.pretraining, *settings)


def of_maps(stage: "MapsStage") -> str | None:
    """Return the fingerprint of LiGO's maps; None for other held-out masks."""
    of, student = stage.shapes.conditions, stage.shapes.student
    if _is_masked_otherwise(of):
        return None
    trained = (stage.options, of.lasting(stage.options.steps), _eval(of), stage.seed)
    taught = (stage.teaches, *of_teachers(stage.teacher))
    return former_fingerprint("ligo", stage.corpus.formerly, *taught, of.task, student, *trained)


def of_student(stage: "StudentStage") -> str | None:
    """Return the fingerprint of a run; None for other held-out masks, and for a second stage."""
    of, teaching = stage.shapes.conditions, stage.teaching
    if _is_masked_otherwise(of) or stage.after:
        return None
    parts = ["student", stage.corpus.formerly, of.task, stage.shapes.student, stage.remap]
    parts += [of.optim, of.train, _eval(of), stage.seed, *(stage.weights or [])]
    if teaching is not None:
        compared = (teaching.alpha, teaching.objectives, teaching.revise, teaching.select)
        parts += [teaching.options, *of_teachers(teaching.stage), *compared]
    return former_fingerprint(*parts)


def of_teachers(stage: "TeacherStage") -> list[str]:
    """Return the fingerprints of the single teachers; those of opened ones are what they were."""
    return [teacher.formerly or teacher.identity for teacher in stage.each]


def _is_masked_otherwise(conditions: "Conditions") -> bool:
    return conditions.heldout_task != conditions.task


def _eval(conditions: "Conditions") -> Eval:
    """Return the evaluation's options without the ratio that was the task's."""
    return replace(conditions.eval, mask_ratio=Eval.mask_ratio)
