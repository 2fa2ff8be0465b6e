"""A recipe: the stages of a run, each from options to a fingerprinted artifact.

corpus -> teacher -> student. A stage's fingerprint covers its own options and the fingerprints of
the stages before it, so an artifact that exists is found, and one that would differ is not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.config.run import Run
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Schedule
from dwt_cli.distill.loss import Lesson, MaskedLanguageModelling
from dwt_cli.distill.objective.features import inside_objectives, wishes
from dwt_cli.distill.remap.options import FromTeacher, Ligo, Remap
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.models.checkpoint import provenance, save_model
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, num_parameters
from dwt_cli.models.making import outline
from dwt_cli.models.options import CheckpointStudent
from dwt_cli.recipe.shapes import student_outline
from dwt_cli.recipe.stage import Job, Workshop
from dwt_cli.recipe.student import Starts
from dwt_cli.recipe.teacher import Prepared, Teachers
from dwt_cli.track.display import Display
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.moment import Moment


@dataclass
class Trained:
    """A model and what is known about it; ``facts`` is what a summary says of it.

    `take` hands the model on to who will release it.
    """

    model: PreTrainedModel | None
    facts: dict[str, Any]

    def take(self) -> PreTrainedModel:
        """The model, which is not kept here any longer."""
        model, self.model = self.model, None
        assert model is not None, "it was taken before"
        return model


class Recipe:
    """The stages of one run. All ranks go through them together, the first one writes."""

    def __init__(self, run: Run, machine: Machine, cache: Cache, ranks: Ranks = ALONE) -> None:
        self.run = run
        self.shop = Workshop(run, machine, cache, ranks)
        self.teachers = Teachers(self.shop)
        self._starts = Starts(self.shop, self.teachers)

    # ------------------------------------------------------------------------ what it is

    @property
    def corpus_id(self) -> str:
        return self.shop.corpus_id

    @cached_property
    def student_id(self) -> str:
        if is_stand_alone(self.run):
            return self._student_id(self.run, ())
        run = self.run
        compared = (run.alpha, run.objective, run.revise, run.select)
        return self._student_id(run, (run.teacher, *self.teachers.identities(), *compared))

    @cached_property
    def stand_alone_id(self) -> str:
        """The student of the same seed, size, text and length without a teacher."""
        return self._student_id(replace(self.run, remap=Remap()), ())

    def _student_id(self, run: Run, heard: tuple[Any, ...]) -> str:
        opened = run.student if isinstance(run.student, CheckpointStudent) else None
        return fingerprint(
            "student",
            self.corpus_id,
            run.task,
            run.student,
            run.remap,
            run.optim,
            run.train,
            run.eval,
            run.seed,
            *([] if opened is None else [provenance(opened.path, opened.revision)]),
            *heard,
        )

    def work(self) -> dict[str, float]:
        """The stages by name, with the FLOPs of those that train (an estimate, for the ETA)."""
        shop, run = self.shop, self.run
        work = {"corpus": 0.0}
        steps = run.train.max_steps or 0
        per_step = shop.step_flops(student_outline(run)) * FORWARD_AND_BACKWARD
        student = per_step * steps
        for stage, teacher in self.teachers.made.items():
            forward = shop.step_flops(outline(teacher))
            have = shop.cache.holds("teacher", self.teachers.identity(stage))
            work[stage] = 0.0 if have else forward * FORWARD_AND_BACKWARD * teacher.max_steps
            student += forward * num_taught(run.alpha, steps)
        if isinstance(run.remap, Ligo):
            have = shop.cache.holds("maps", self._starts.maps_id)
            work["remap"] = 0.0 if have else per_step * run.remap.steps
        return work | {"student": student}

    # ---------------------------------------------------------------------------- the stages

    def corpus(self, display: Display) -> Corpus:
        """Text to packed blocks, once."""
        return self.shop.corpus(display)

    def teacher(self, corpus: Corpus, display: Display) -> Prepared | None:
        """Whatever teaches; None for a student that stands alone."""
        return self.teachers.prepare(corpus, display)

    def student(
        self,
        corpus: Corpus,
        teacher: Prepared | None,
        display: Display,
        folder: Path,
    ) -> Trained:
        """The run itself: its metrics, checkpoints and facts go to ``folder``."""
        run, more = self.run, {}
        model = self._starts.own()
        if isinstance(run.remap, FromTeacher):
            assert teacher is not None
            more["remap"] = self._starts.remapped(
                model, run.remap, teacher, corpus, display, folder
            )
        taught = _Taught() if teacher is None else self._taught(teacher, model)
        facts = self.shop.train(
            Job("student", "student", self.student_id, folder, run.seed, run.train, run.optim),
            self.shop.wrapped(model),
            MaskedLanguageModelling(taught.lesson, compiled=run.train.compile),
            corpus,
            display,
            save=lambda place: save_model(model, corpus, place),
            at=run.eval.at,
        )
        facts["flops"] += taught.showing_flops * facts["num_taught"]
        more["teacher_forward_flops"] = taught.asking_flops * facts["num_taught"]
        return Trained(model, facts | more)

    def _taught(self, teacher: Prepared, student: PreTrainedModel) -> "_Taught":
        """The lesson is the only holder of the teacher from here on."""
        run, shop, inside = self.run, self.shop, nn.ModuleDict()
        asking_flops, showing_flops = teacher.step_flops, 0.0
        if teacher.model is not None:
            inside = inside_objectives(run.objective, student.config, teacher.model.config)
            ours, theirs = wishes(inside)
            asking_flops = shop.step_flops(teacher.model, theirs)
            showing_flops = shop.step_flops(student, ours) - shop.step_flops(student)
        lesson = Lesson(
            teacher.take(),
            run.alpha,
            run.objective,
            inside.to(shop.machine.device),
            run.revise,
            run.select,
        )
        return _Taught(lesson, asking_flops, FORWARD_AND_BACKWARD * showing_flops)

    def student_so_far(self, corpus: Corpus, folder: Path, say: Callable[[str], None]) -> Trained:
        """The student of the newest checkpoint below ``folder``, trained no further."""
        model = self._starts.own()
        wrapped = self.shop.wrapped(model).to(self.shop.machine.device)
        train = self.run.train
        checkpoints = Checkpoints(
            folder / "checkpoints", self.student_id, train.keep_checkpoints, say
        )
        counters = checkpoints.restore_model(wrapped)
        if counters is None:
            raise UserError(f"{folder} has no whole checkpoint: train first")
        tokens_per_step = train.batch_size * self.run.data.block_length
        return Trained(
            model,
            {
                "parameters": num_parameters(model),
                "steps": counters.step,
                "tokens": counters.step * tokens_per_step,
                "heldout": self.shop.heldout_metrics(wrapped, corpus),
            },
        )


class _Taught(NamedTuple):
    """What the student learns from, and FLOPs of a step that listens beyond those of one alone.

    asking_flops: of the teacher. showing_flops: of the student, to show what is inside it.
    """

    lesson: Lesson | None = None
    asking_flops: float = 0.0
    showing_flops: float = 0.0


def is_stand_alone(run: Run) -> bool:
    return type(run.teacher) is Teacher


def num_taught(schedule: Schedule, num_steps: int) -> int:
    """Steps in which the teacher runs; of a schedule that reacts, as if nothing happened."""
    return sum(schedule.weights(Moment(step / num_steps)).soft != 0 for step in range(num_steps))
