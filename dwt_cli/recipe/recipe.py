"""A recipe: the list of a run's stages, each from options to an artifact found by its fingerprint.

corpus -> teacher -> [crossing ->] [maps ->] [scores ->] [signal ->] student. A stage's fingerprint
covers its own options and those of the stages before it, so an artifact that exists is found, and
one that would differ is not.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dwt_cli.base.cache import Cache
from dwt_cli.config.run import Run
from dwt_cli.distill.teacher.options import CheckpointTeacher
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.corpus import CorpusStage, tokenizer_path
from dwt_cli.recipe.labelled import LabelledStage
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.student import StudentStage
from dwt_cli.recipe.teacher import teacher_stage
from dwt_cli.training.protocols import Moment


def recipe_of(run: Run, others: Iterable[StudentStage] = ()) -> StudentStage:
    """Return the stage that a run comes to, which knows those before it; nothing is opened yet.

    others: of runs of the same study: a text that is the same is looked at once.
    """
    conditions = Conditions(run.task, run.train, run.optim, run.eval, run.parallel, run.data)
    opened = [*run.student.checkpoints(), *run.teacher.checkpoints()]
    texts: LabelledStage | None = None
    if labelled := run.task.labelled:
        tokenizer = lambda: tokenizer_path(run.data.tokenizer, opened)  # noqa: E731
        cache = Cache(run.run.cache, print)
        texts = LabelledStage(run.data, labelled, tokenizer, cache=cache)
        conditions = replace(conditions, mean_length=lambda: texts.length)
    of = (run.student, run.remap, dict(run.teacher.each()), run.objective, conditions, opened)
    are_cached = run.signal.cached is not None and not run.alpha.soft_is_over(Moment(0.0))
    num_shared = run.signal.cached.num_shared if run.signal.cached and are_cached else 0
    shapes = Shapes(
        *of,
        are_cached=are_cached,
        num_shared=num_shared,
        mixture=run.teacher.combined,
        tuning=run.tuning,
    )
    asked = any(override.startswith("eval.num_blocks=") for override in run.overrides)
    corpus = texts or CorpusStage(
        run.data,
        run.task,
        lambda: tokenizer_path(run.data.tokenizer, opened),
        run.eval.num_blocks if asked else None,
        fewest=_fewest_blocks(run),
        alike=_references(run),
    )
    if not opened:  # else the tokenizer may be another
        known = (each.corpus for each in others if not each.shapes.checkpoints)
        corpus = next((each for each in known if each == corpus), corpus)
    return StudentStage(
        run.seed,
        shapes,
        corpus,
        teacher_stage(run.teacher, corpus, conditions),
        run.alpha,
        run.revise,
        run.select,
        run.signal,
        run.explore,
        run.order,
        run.run.train_tokens,
        root=Path(run.run.root).expanduser(),
    )


def _fewest_blocks(run: Run) -> int:
    """Return how long the text has to be, for one block to be left beside those set apart."""
    apart = run.teacher.combined.num_probe if run.teacher.combined else 0
    if not apart:
        return 1
    return math.ceil((apart + 1) / (run.order.chosen.share if run.order.chosen else 1.0))


def _references(run: Run) -> list[tuple[str, CheckpointTeacher]]:
    """Return the models that score the text beside a teacher, and exist already."""
    has_teacher = any(True for _ in run.teacher.each())
    return [*run.order.scored.checkpoints()] if run.order.scored and has_teacher else []
