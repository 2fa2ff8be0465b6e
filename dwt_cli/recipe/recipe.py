"""A recipe: the list of a run's stages, each from options to an artifact found by its fingerprint.

corpus -> teacher -> [maps ->] student. A stage's fingerprint covers its own options and those of
the stages before it, so an artifact that exists is found, and one that would differ is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dwt_cli.base.cache import Cache
from dwt_cli.config.run import Run
from dwt_cli.distill.remap.options import Ligo
from dwt_cli.recipe.corpus import CorpusStage, tokenizer_path
from dwt_cli.recipe.evaluate import RunEvaluation
from dwt_cli.recipe.maps import MapsStage
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.stage import Stage
from dwt_cli.recipe.student import StudentStage, Teaching
from dwt_cli.recipe.teacher import TeacherStage, teacher_stages


@dataclass(frozen=True)
class Recipe:
    """What a run is made by: all ranks go through ``stages``, in this order.

    student: the last stage of a student, which the run is found by. teachers: the stages of single
    teachers, then of their mixture.
    """

    stages: Sequence[Stage]
    corpus: CorpusStage
    teachers: Sequence[TeacherStage]
    student: StudentStage
    evaluation: RunEvaluation
    shapes: Shapes

    @property
    def identity(self) -> str:
        """The fingerprint of the run."""
        return self.student.identity

    @property
    def teacher_identities(self) -> list[str]:
        """The fingerprints of the models that teach."""
        return list(self.teachers[-1].identities) if self.teachers else []

    @cached_property
    def stand_alone(self) -> str:
        """The fingerprint of the run with this student, text and length, without a teacher."""
        return self.student.alone().identity

    def costs(self, done: Mapping[str, Any], cache: Cache) -> dict[str, float | None]:
        """Return the FLOPs of each bar of the display that are left to be spent."""
        return {
            bar: 0.0 if stage.is_kept(cache) else stage.cost(done)
            for stage in self.stages
            for bar in stage.bars
        }


def recipe_of(run: Run) -> Recipe:
    """Return the recipe of a run; nothing is opened yet."""
    shapes = Shapes.of(run)
    conditions = shapes.conditions
    said = any(override.startswith("eval.num_blocks=") for override in run.overrides)
    corpus = CorpusStage(
        data=run.data,
        task=run.task,
        tokenizer=lambda: tokenizer_path(run.data.tokenizer, shapes.checkpoints),
        wanted_heldout=run.eval.num_blocks if said else None,
    )
    teachers = teacher_stages(run.teacher, shapes.teachers, conditions, corpus)
    teaching = maps = None
    if teachers:
        teacher = teachers[-1]
        teaching = Teaching(teacher, run.teacher, run.alpha, run.objective, run.revise, run.select)
        if isinstance(run.remap, Ligo):
            maps = MapsStage(
                options=run.remap,
                student=run.student,
                seed=run.seed,
                shapes=shapes,
                corpus=corpus,
                teacher=teacher,
                teacher_options=run.teacher,
            )
    student = StudentStage(
        student=run.student,
        seed=run.seed,
        remap=run.remap,
        shapes=shapes,
        corpus=corpus,
        maps=maps,
        teaching=teaching,
        train_tokens=run.run.train_tokens,
    )
    evaluation = RunEvaluation(
        options=run.eval, conditions=conditions, corpus=corpus, student=student
    )
    stages = [corpus, *teachers, *([maps] if maps else []), student]
    return Recipe(stages, corpus, teachers, student, evaluation, shapes)
