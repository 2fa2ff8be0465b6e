"""The stages of the student: maps to start from, and its training, alone or with a teacher."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.distill.alpha import Schedule
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.base import Objective
from dwt_cli.distill.objective.features import parts_for, requested
from dwt_cli.distill.objective.revise import Revise
from dwt_cli.distill.objective.select import Select
from dwt_cli.distill.remap.ligo import Growing
from dwt_cli.distill.remap.options import Ligo, RandomStart, Remap
from dwt_cli.distill.remap.picture import draw_origins
from dwt_cli.distill.remap.remap import Account
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.models.checkpoint import provenance, save_model
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, num_parameters
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe import formerly
from dwt_cli.recipe.corpus import CorpusStage, num_tokens
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.recipe.teacher import Prepared, TeacherStage
from dwt_cli.track.summary import Facts
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.moment import Moment
from dwt_cli.training.options import AdamW

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
    def parts(self) -> dict[str, Any]:
        """The parts of a fingerprint."""
        return {
            "teacher": self.options,
            "teachers": self.stage.identities,
            "alpha": self.alpha,
            "objectives": self.objectives,
            "revise": self.revise,
            "select": self.select,
        }

    def num_taught(self, num_steps: int) -> float:
        """Return the steps in which the teacher runs; with a schedule that reacts, as it begins."""
        samples = min(num_steps, _SAMPLES)
        weights = (self.alpha.weights(Moment(n / samples)) for n in range(samples))
        return num_steps * sum(weight.soft != 0 for weight in weights) / samples


@dataclass(frozen=True)
class MapsStage(Stage):
    """Maps that are learned once on the corpus; they make the student of its teacher's weights.

    teaches: the options of the teacher.
    """

    kind = "maps"
    options: Ligo
    seed: int
    shapes: Shapes
    corpus: CorpusStage
    teacher: TeacherStage
    teaches: Teacher
    name: str = "remap"

    @cached_property
    def identity(self) -> str:
        of = self.shapes.conditions
        return fingerprint(
            "ligo",
            text=self.corpus.identity,
            teacher=self.teaches,
            teachers=self.teacher.identities,
            task=of.task,
            student=self.shapes.student,
            options=self.options,
            train=of.lasting(self.options.steps),
            eval=of.eval,  # the facts of the training have a held-out loss
            seed=self.seed,
        )

    @cached_property
    def formerly(self) -> str | None:
        return formerly.of_maps(self)

    def cost(self, done: Mapping[str, Any]) -> float:
        return self.shapes.step_flops * self.options.steps

    def carry_out(self, done: Done, at: Context) -> Path:
        """Return the folder of the maps and of their training's facts."""
        place = at.trained(
            self, lambda folder: self._learn(done, at, folder), {"options": plain(self.options)}
        )
        at.show.update(self.name, 1.0, f"held-out {self.facts(place).loss:.3f}")
        return place

    def _learn(self, done: Done, at: Context, folder: Path) -> None:
        options, conditions = self.options, self.shapes.conditions
        optim = AdamW(lr=options.lr, weight_decay=0.0)
        setup = conditions.setup("remap", self, folder, self.seed, steps=options.steps, optim=optim)
        growing = self._growing(self.shapes.start(self.seed), done, at)
        corpus = done[self.corpus.name]
        facts = conditions.fit(setup, growing, DistillationLoss(), corpus, corpus, at)
        if at.ranks.is_first:
            save_file(growing.maps(), folder / "maps.safetensors")
            atomic.write_json(folder / "facts.json", facts.to_json())
            shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it

    def facts(self, place: Path) -> Facts:
        """Return the facts of the maps' training."""
        return Facts.from_json(json.loads((place / "facts.json").read_text(encoding="utf-8")))

    def apply(self, student: PreTrainedModel, done: Done, at: Context) -> Account:
        """Write what the learned maps make of the teacher into the student."""
        maps = load_file(done[self.name] / "maps.safetensors", device=str(at.machine.device))
        return self._growing(student, done, at).fold(maps)

    def _growing(self, student: PreTrainedModel, done: Done, at: Context) -> Growing:
        """Return a student whose weights are the maps' functions of its teacher's."""
        teacher: Prepared = done[self.teacher.name]
        assert teacher.model is not None
        device, dtype = at.machine.device, at.machine.dtype
        LanguageModel(student, dtype).to(device)
        return Growing(student, teacher.model, self.options, dtype).to(device)


@dataclass(frozen=True)
class StudentStage(Stage):
    """A student from its start to the end of its training; its artifact is a `Trained` one.

    after: an earlier student's stage, whose model this one trains on. folder: of its metrics and
    checkpoints, below the run's directory. train_tokens: the length of the text, where it is said
    before there is a corpus.
    """

    seed: int
    remap: Remap
    shapes: Shapes
    corpus: CorpusStage
    teaching: Teaching | None = None
    maps: MapsStage | None = None
    train_tokens: int | None = None
    after: "StudentStage | None" = None
    name: str = "student"
    purpose: str = "student"
    folder: str = ""

    @cached_property
    def identity(self) -> str:
        of = self.shapes.conditions
        return fingerprint(
            "student",
            text=self.corpus.identity,
            task=of.task,
            student=self.shapes.student,
            weights=self.weights,
            remap=self.remap,
            optim=of.optim,
            train=of.train,
            eval=of.eval,
            seed=self.seed,
            after=self.after and self.after.identity,
            **(self.teaching.parts if self.teaching else {}),
        )

    @cached_property
    def formerly(self) -> str | None:
        return formerly.of_student(self)

    @cached_property
    def weights(self) -> list[dict[str, Any]] | None:
        """What determines the model that is opened; None for one that is made."""
        opened = self.shapes.student.checkpoints()
        return [provenance(each.path, each.revision) for _, each in opened] or None

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
        taught = self.teaching.num_taught(steps) * self._taught_flops if self.teaching else 0.0
        return steps * self.shapes.step_flops + taught

    @cached_property
    def _taught_flops(self) -> float:
        """FLOPs of a step with the teacher beyond those of one without it."""
        flops, student = self.shapes.conditions.step_flops, self.shapes.student_model
        ours, theirs = self.shapes.features
        asked = sum(flops(model, theirs) for model in self.shapes.teacher_models.values())
        return FORWARD_AND_BACKWARD * (flops(student, ours) - flops(student)) + asked

    def carry_out(self, done: Done, at: Context) -> Trained:
        """Return the student at its end; metrics and checkpoints are in the run's directory."""
        conditions, corpus = self.shapes.conditions, done[self.corpus.name]
        folder = at.folder / self.folder
        model, remapped = self.shapes.start(self.seed), None
        if self.after is not None:
            model = done[self.after.name].model
        elif self.remap.needs_teacher:
            remapped = self._remap(model, done, at)
        taught = (
            _Taught() if self.teaching is None else self._taught(self.teaching, model, done, at)
        )
        setup = conditions.setup(self.purpose, self, folder, self.seed, shares=conditions.eval.at)
        facts = conditions.fit(
            setup,
            conditions.wrapped(model, at.machine),
            DistillationLoss(taught.distillation, compiled=conditions.train.compile),
            corpus,
            corpus,
            at,
            save=lambda place: save_model(model, corpus.tokenizer, place),
        )
        num_taught, flops = facts.num_taught or 0, facts.flops or 0
        flops += taught.student_flops * num_taught
        asked = taught.teacher_flops * num_taught
        facts = replace(facts, flops=flops, teacher_forward_flops=asked, remap=remapped)
        return Trained(model, facts)

    def newest(self, done: Done, at: Context) -> Trained:
        """Return the student of the newest checkpoint, trained no further."""
        conditions, folder = self.shapes.conditions, at.folder / self.folder
        model = self.shapes.start(self.seed)
        wrapped = conditions.wrapped(model, at.machine).to(at.machine.device)
        checkpoints = Checkpoints(
            folder / "checkpoints",
            self.identity,
            conditions.train.keep_checkpoints,
            at.show.say,
            formerly=self.formerly,
        )
        counters = checkpoints.restore_model(wrapped)
        if counters is None:
            raise UserError(f"{folder} has no whole checkpoint: train first")
        facts = Facts(
            parameters=num_parameters(model),
            steps=counters.step,
            tokens=counters.step * conditions.tokens_per_step,
            heldout=conditions.evaluation(done[self.corpus.name], at)(wrapped),
        )
        return Trained(model, facts)

    def _remap(self, student: PreTrainedModel, done: Done, at: Context) -> dict[str, Any]:
        """Start the student from its teacher, in place; return what that cost and is worth.

        losses: held-out, before the student's first step, in nats. Where each tensor comes from
        goes to the run's directory, with a picture.
        """
        assert self.teaching is not None
        evaluate = self.shapes.conditions.evaluation(done[self.corpus.name], at)
        teacher: Prepared = done[self.teaching.stage.name]
        assert teacher.model is not None

        def loss() -> float:
            model = LanguageModel(student, at.machine.dtype)  # evaluated once: not compiled
            return evaluate(model.to(at.machine.device))["loss"]

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

    def _taught(
        self, teaching: Teaching, student: PreTrainedModel, done: Done, at: Context
    ) -> "_Taught":
        conditions, teacher = self.shapes.conditions, done[teaching.stage.name]
        parts: dict[str, nn.Module] = {}
        teacher_flops, student_flops = teacher.step_flops, 0.0
        if teacher.model is not None:
            parts = parts_for(teaching.objectives, student.config, teacher.model.config)
            ours, theirs = requested(teaching.objectives)
            teacher_flops = conditions.step_flops(teacher.model, theirs)
            student_flops = conditions.step_flops(student, ours) - conditions.step_flops(student)
        teacher.share(conditions, at)
        compared = (teaching.objectives, parts, teaching.revise, teaching.select)
        distillation = Distillation(teacher.signal, teaching.alpha, *compared)
        return _Taught(distillation, teacher_flops, FORWARD_AND_BACKWARD * student_flops)


class _Taught(NamedTuple):
    """A distillation, and the FLOPs by which a step with a teacher exceeds one without.

    student_flops: for the features that are compared.
    """

    distillation: Distillation | None = None
    teacher_flops: float = 0.0
    student_flops: float = 0.0
