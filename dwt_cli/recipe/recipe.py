"""A recipe: the list of a run's stages, each from options to an artifact found by its fingerprint.

corpus -> teacher -> [maps ->] student. A stage's fingerprint covers its own options and those of
the stages before it, so an artifact that exists is found, and one that would differ is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dwt_cli.base.cache import Cache
from dwt_cli.config.run import Run
from dwt_cli.recipe.corpus import CorpusStage, tokenizer_path
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.stage import Conditions, Stage
from dwt_cli.recipe.student import StudentStage
from dwt_cli.recipe.teacher import TeacherStage, teacher_stages


@dataclass(frozen=True)
class Recipe:
    """What a run is made by: all ranks go through ``stages``, in this order.

    student: the last stage of a student, which the run is found by.
    """

    stages: Sequence[Stage]
    student: StudentStage

    @property
    def corpus(self) -> CorpusStage:
        return self.student.corpus

    @property
    def teacher(self) -> TeacherStage | None:
        """The stage of what teaches, which comes after those of its members."""
        return self.student.teacher

    @property
    def shapes(self) -> Shapes:
        return self.student.shapes

    @property
    def identity(self) -> str:
        """The fingerprint of the run."""
        return self.student.identity

    @property
    def teacher_identities(self) -> list[str]:
        """The fingerprints of the models that teach."""
        return self.teacher.identities if self.teacher else []

    def costs(self, done: Mapping[str, Any], cache: Cache) -> dict[str, float | None]:
        """Return the FLOPs of each stage that are left to be spent."""
        return {
            stage.name: 0.0 if stage.is_kept(cache) else stage.cost(done) for stage in self.stages
        }


def recipe_of(run: Run) -> Recipe:
    """Return the recipe of a run; nothing is opened yet."""
    conditions = Conditions(run.task, run.train, run.optim, run.eval, run.parallel, run.data)
    opened = [*run.student.checkpoints(), *run.teacher.checkpoints()]
    shapes = Shapes(
        run.student, run.remap, dict(run.teacher.each()), run.objective, conditions, opened
    )
    asked = any(override.startswith("eval.num_blocks=") for override in run.overrides)
    corpus = CorpusStage(
        run.data,
        run.task,
        lambda: tokenizer_path(run.data.tokenizer, opened),
        run.eval.num_blocks if asked else None,
    )
    teachers = teacher_stages(run.teacher, corpus, conditions)
    student = StudentStage(
        run.seed,
        run.remap,
        shapes,
        corpus,
        teachers[-1] if teachers else None,
        run.alpha,
        run.revise,
        run.select,
        run.run.train_tokens,
    )
    maps = [student.maps] if student.maps else []
    return Recipe([corpus, *teachers, *maps, student], student)
