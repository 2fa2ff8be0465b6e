"""A recipe: the list of a run's stages, each from options to an artifact found by its fingerprint.

corpus -> teacher -> [maps ->] student. A stage's fingerprint covers its own options and those of
the stages before it, so an artifact that exists is found, and one that would differ is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dwt_cli.base.cache import Cache
from dwt_cli.config.run import Run, checkpoints
from dwt_cli.distill.remap.options import Ligo
from dwt_cli.recipe.corpus import CorpusStage, tokenizer_path
from dwt_cli.recipe.evaluate import EvaluationStage
from dwt_cli.recipe.shapes import Conditions, Shapes
from dwt_cli.recipe.stage import Stage
from dwt_cli.recipe.student import MapsStage, StudentStage, Teaching
from dwt_cli.recipe.teacher import TeacherStage, teacher_stages
from dwt_cli.tasks.options import Task


@dataclass(frozen=True)
class Recipe:
    """What a run is made by: all ranks go through ``stages``, in this order.

    teacher: the stage of what teaches, after those of its members. student: the last stage of a
    student, which the run is found by. evaluation: of its models, once it is finished.
    """

    stages: Sequence[Stage]
    corpus: CorpusStage
    teacher: TeacherStage | None
    student: StudentStage
    evaluation: EvaluationStage

    @property
    def shapes(self) -> Shapes:
        return self.student.shapes

    @property
    def task(self) -> Task:
        return self.corpus.task

    @property
    def identity(self) -> str:
        """The fingerprint of the run."""
        return self.student.identity

    @property
    def facts(self) -> dict[str, Any]:
        """What all ranks of the run have to agree on."""
        text, teacher = self.corpus.identity, self.teacher_identities
        return {"text": text, "teacher": teacher, "run": self.identity}

    @property
    def teacher_identities(self) -> list[str]:
        """The fingerprints of the models that teach."""
        return self.teacher.identities if self.teacher else []

    @cached_property
    def alone(self) -> StudentStage:
        """The run with this student, text and length, without a teacher."""
        return self.student.alone()

    def costs(self, done: Mapping[str, Any], cache: Cache) -> dict[str, float | None]:
        """Return the FLOPs of each stage that are left to be spent."""
        return {
            stage.name: 0.0 if stage.is_kept(cache) else stage.cost(done) for stage in self.stages
        }


def recipe_of(run: Run) -> Recipe:
    """Return the recipe of a run; nothing is opened yet."""
    conditions = Conditions(run.task, run.train, run.optim, run.eval, run.parallel, run.data)
    singles, opened = dict(run.teacher.each()), list(checkpoints(run.student, run.teacher))
    shapes = Shapes(run.student, singles, run.objective, conditions, opened)
    asked = any(override.startswith("eval.num_blocks=") for override in run.overrides)
    corpus = CorpusStage(
        run.data,
        run.task,
        lambda: tokenizer_path(run.data.tokenizer, opened),
        run.eval.num_blocks if asked else None,
    )
    teachers = teacher_stages(run.teacher, corpus, conditions)
    teacher = teachers[-1] if teachers else None
    teaching = maps = None
    if teacher:
        compared = (run.alpha, run.objective, run.revise, run.select)
        teaching = Teaching(teacher, run.teacher, *compared)
        if isinstance(run.remap, Ligo):
            maps = MapsStage(run.remap, run.seed, shapes, corpus, teacher, run.teacher)
    tokens = run.run.train_tokens
    student = StudentStage(run.seed, run.remap, shapes, corpus, teaching, maps, tokens)
    stages = [corpus, *teachers, *([maps] if maps else []), student]
    found_by = lambda: student.identity  # noqa: E731
    evaluation = EvaluationStage(run.eval, conditions, corpus, found_by)
    return Recipe(stages, corpus, teacher, student, evaluation)
