"""The stages of the student: where it starts, and its training, alone or with a teacher."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.distill.alpha import Schedule
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.base import Objective
from dwt_cli.distill.objective.feature_losses import feature_losses, requested
from dwt_cli.distill.objective.revise import Revise
from dwt_cli.distill.objective.select import Select
from dwt_cli.distill.remap.options import RandomStart, Remap
from dwt_cli.distill.remap.picture import draw_origins
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.models.checkpoint import provenance, save_model
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, num_parameters
from dwt_cli.models.options import Student
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe.corpus import CorpusStage, num_tokens
from dwt_cli.recipe.maps import MapsStage
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.stage import Context, Done, Setup, Stage, train
from dwt_cli.recipe.teacher import Prepared, TeacherStage, share
from dwt_cli.track.summary import Facts
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.moment import Moment

_SAMPLES = 1000  # moments of a run at which its schedule is asked for the teacher's weight


class Trained(NamedTuple):
    """A model, and what is known of it and its training."""

    model: PreTrainedModel
    facts: Facts


@dataclass(frozen=True)
class Teaching:
    """A teacher, by its stage and its options, and how the student is compared with it."""

    stage: TeacherStage
    options: Teacher
    alpha: Schedule
    objectives: Mapping[str, Objective]
    revise: Revise
    select: Select

    @property
    def identity(self) -> tuple[Any, ...]:
        """The parts of a fingerprint."""
        compared = (self.alpha, self.objectives, self.revise, self.select)
        return (self.options, *self.stage.identities, *compared)


@dataclass(frozen=True, kw_only=True)
class StudentStage(Stage):
    """A student from its start to the end of its training; its artifact is a `Trained` one.

    after: an earlier student's stage, whose model this one trains on. folder: of its metrics and
    checkpoints, below the run's directory. train_tokens: the length of the text, where it is said
    before there is a corpus.
    """

    name: str = "student"
    purpose: str = "student"
    folder: str = ""
    student: Student
    seed: int
    remap: Remap
    shapes: Shapes
    corpus: CorpusStage
    maps: MapsStage | None = None
    teaching: Teaching | None = None
    after: "StudentStage | None" = None
    train_tokens: int | None = None

    @cached_property
    def identity(self) -> str:
        conditions, student = self.shapes.conditions, self.student
        return fingerprint(
            "student",
            self.corpus.identity,
            conditions.task,
            student,
            self.remap,
            conditions.optim,
            conditions.train,
            conditions.eval,
            self.seed,
            *(provenance(each.path, each.revision) for _, each in student.checkpoints()),
            *(self.teaching.identity if self.teaching else ()),
            *([self.after.identity] if self.after else []),
        )

    def alone(self) -> "StudentStage":
        """Return the same student without any teacher."""
        before = self.after and self.after.alone()
        return replace(self, remap=RandomStart(), maps=None, teaching=None, after=before)

    def num_steps(self, done: Mapping[str, Any]) -> int | None:
        """Return the length of the training; None while the length of the text is not known."""
        tokens = num_tokens(done, self.corpus.name) or self.train_tokens
        return self.shapes.conditions.num_steps(tokens)

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of the student and of its teachers' forward passes."""
        steps = self.num_steps(done)
        if steps is None:
            return None
        flops = steps * self.shapes.step_flops
        if self.teaching is not None:
            samples = min(steps, _SAMPLES)
            taught = steps * num_taught(self.teaching.alpha, samples) / samples
            flops += taught * self._teaching_flops
        return flops

    @cached_property
    def _teaching_flops(self) -> float:
        """FLOPs of a step with the teacher beyond those of one without it."""
        conditions, student = self.shapes.conditions, self.shapes.student_model
        ours, theirs = self.shapes.features
        features = conditions.step_flops(student, ours) - conditions.step_flops(student)
        asked = sum(conditions.step_flops(m, theirs) for m in self.shapes.teacher_models.values())
        return FORWARD_AND_BACKWARD * features + asked

    def carry_out(self, done: Done, at: Context) -> Trained:
        """Return the student at its end; metrics and checkpoints are in the run's directory."""
        conditions, corpus = self.shapes.conditions, done[self.corpus.name]
        start = self._start(done, at)
        distilled = self._distilled(start.model, done, at)
        loss = DistillationLoss(distilled.distillation, compiled=conditions.train.compile)
        loss.aux.to(at.machine.device)
        setup = Setup(
            purpose=self.purpose,
            stage=self.name,
            identity=self.identity,
            folder=at.folder / self.folder,
            seed=self.seed,
            train=conditions.train,
            optim=conditions.optim,
            parallel=conditions.parallel,
            eval_every=conditions.eval.every,
            step_flops=conditions.step_flops(start.model) * FORWARD_AND_BACKWARD,
            shares=conditions.eval.at,
        )
        facts = train(
            setup,
            conditions.wrapped(start.model, at.machine),
            loss,
            conditions.batches(corpus, setup.seed, setup.purpose),
            conditions.evaluation(corpus, at.machine, at.ranks),
            at,
            save=lambda place: save_model(start.model, corpus.tokenizer, place),
        )
        num_taught = facts.num_taught or 0
        return Trained(
            start.model,
            replace(
                facts,
                flops=(facts.flops or 0) + distilled.features_flops * num_taught,
                teacher_forward_flops=distilled.teacher_flops * num_taught,
                remap=start.remap,
            ),
        )

    def newest(self, done: Done, at: Context) -> Trained:
        """Return the student of the newest checkpoint, trained no further."""
        conditions, corpus = self.shapes.conditions, done[self.corpus.name]
        model, folder = (
            self.student.start(self.seed, self.shapes.conditions.task.head),
            at.folder / self.folder,
        )
        wrapped = conditions.wrapped(model, at.machine).to(at.machine.device)
        checkpoints = Checkpoints(
            folder / "checkpoints", self.identity, conditions.train.keep_checkpoints, at.show.say
        )
        counters = checkpoints.restore_model(wrapped)
        if counters is None:
            raise UserError(f"{folder} has no whole checkpoint: train first")
        facts = Facts(
            parameters=num_parameters(model),
            steps=counters.step,
            tokens=counters.step * conditions.tokens_per_step,
            heldout=conditions.evaluation(corpus, at.machine, at.ranks)(wrapped),
        )
        return Trained(model, facts)

    # ------------------------------------------------------------------------------- the start

    def _start(self, done: Done, at: Context) -> "_Start":
        """Return the student before its first step: fresh, opened, remapped, or an earlier one."""
        if self.after is not None:
            return _Start(done[self.after.name].model)
        student = self.student.start(self.seed, self.shapes.conditions.task.head)
        if not self.remap.needs_teacher:
            return _Start(student)
        assert self.teaching is not None
        return _Start(student, self._remap(student, self.teaching, done, at))

    def _remap(
        self,
        student: PreTrainedModel,
        teaching: Teaching,
        done: Done,
        at: Context,
    ) -> dict[str, Any]:
        """Start the student from its teacher, in place; return what that cost and is worth.

        losses: held-out, before the student's first step, in nats. Where each tensor comes from
        goes to the run's directory, with a picture.
        """
        conditions, corpus = self.shapes.conditions, done[self.corpus.name]
        teacher: Prepared = done[teaching.stage.name]
        assert teacher.model is not None
        evaluate = conditions.evaluation(corpus, at.machine, at.ranks)

        def loss() -> float:
            evaluated_once = LanguageModel(student, at.machine.dtype)  # not worth compiling
            return evaluate(evaluated_once.to(at.machine.device))["loss"]

        losses = {"teacher": teacher.facts.loss, "random": loss()}
        facts: dict[str, Any] = {"flops": 0, "seconds": 0.0}
        if self.maps is not None:
            account = self.maps.apply(student, done, at)
            learned = self.maps.facts(done[self.maps.name])
            facts = {"flops": learned.flops, "seconds": learned.seconds}
        else:
            account = self.remap.start(student, teacher.model)
        losses["remapped"] = loss()
        facts["losses"] = losses
        if at.ranks.is_first:
            folder = at.folder / self.folder
            atomic.write_json(folder / "remap.json", plain(vars(account)) | facts)
            ours, theirs = (m.config.num_hidden_layers for m in (student, teacher.model))
            draw_origins(account, ours, theirs, folder / "remap.png")
        return facts

    def _distilled(self, student: PreTrainedModel, done: Done, at: Context) -> "_Distilled":
        if self.teaching is None:
            return _Distilled()
        teaching, conditions = self.teaching, self.shapes.conditions
        teacher: Prepared = done[teaching.stage.name]
        losses, teacher_flops, features_flops = {}, teacher.step_flops, 0.0
        if teacher.model is not None:
            losses = feature_losses(teaching.objectives, student.config, teacher.model.config)
            ours, theirs = requested(losses.values())
            teacher_flops = conditions.step_flops(teacher.model, theirs)
            features_flops = conditions.step_flops(student, ours) - conditions.step_flops(student)
        share(teacher, conditions, at)
        distillation = Distillation(
            teacher.signal,
            teaching.alpha,
            teaching.objectives,
            losses,
            teaching.revise,
            teaching.select,
        )
        return _Distilled(distillation, teacher_flops, FORWARD_AND_BACKWARD * features_flops)


class _Start(NamedTuple):
    """A student before its first step, and what its start from a teacher cost and is worth."""

    model: PreTrainedModel
    remap: dict[str, Any] | None = None


class _Distilled(NamedTuple):
    """A distillation, and the FLOPs of a distilled step beyond those of a plain one.

    teacher_flops: the teacher's. features_flops: the student's, for the features it gives.
    """

    distillation: Distillation | None = None
    teacher_flops: float = 0.0
    features_flops: float = 0.0


def num_taught(schedule: Schedule, num_steps: int) -> int:
    """Return the steps in which the teacher runs; with a schedule that reacts, as it begins."""
    return sum(schedule.weights(Moment(step / num_steps)).soft != 0 for step in range(num_steps))
