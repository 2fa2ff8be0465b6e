"""A run's models as shapes, without numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from dwt_cli.data.options import OWN
from dwt_cli.distill.objective.base import Objective
from dwt_cli.distill.objective.chunks import over_chunks
from dwt_cli.distill.objective.features import (
    Block,
    between,
    over_features,
    parts_for,
    requested,
)
from dwt_cli.distill.remap.options import Remap
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.distill.teacher.several import SeveralTeachers
from dwt_cli.models.options import Checkpoint, Student
from dwt_cli.models.tuning import Tuning
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.track.summary import Facts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from dwt_cli.models.features import FeatureSpec
    from dwt_cli.models.windows import Windows


@dataclass(frozen=True)
class Shapes:
    """A run's models without their weights, and the conditions under which they work.

    teachers: single ones, by the setting that their own settings begin with. checkpoints: those
    models that exist, with the setting that names each. are_cached: the teachers' answers are, so
    that none is there while the student trains. num_shared: of the centroids of cached rows.
    mixture: what several are made into. tuning: which numbers of the student are trained.
    """

    student: Student
    remap: Remap
    teachers: Mapping[str, Teacher]
    objectives: Mapping[str, Objective]
    conditions: Conditions
    checkpoints: Sequence[tuple[str, Checkpoint]]
    are_cached: bool = False
    num_shared: int = 0
    mixture: SeveralTeachers | None = None
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def teachers_beside(self) -> Mapping[str, Teacher]:
        """The teachers that are there while the student trains."""
        return {} if self.are_cached else self.teachers

    @property
    def models_beside(self) -> Mapping[str, PreTrainedModel]:
        """Those of them that are models."""
        return {} if self.are_cached else self.teacher_models

    @property
    def student_config(self) -> PreTrainedConfig:
        """The student's configuration: its own, and what it adopts with a teacher's weights."""
        config = self.student.config("student", self.conditions.task.head)
        if (teacher := self.teacher_models.get("teacher")) is not None:
            self.remap.adopt(config, teacher.config)
        return config

    def student_on(self, device: torch.device | str) -> PreTrainedModel:
        """Return the student as it is trained, on the meta device or, of fake tensors, on any."""
        from dwt_cli.models.making import outline

        model = outline(self.student_config, self.conditions.task.head, device)
        self.attach(model, seed=0)
        return model

    def attach(self, model: PreTrainedModel, seed: int) -> None:
        """Make a model one of which the tuning's numbers are trained, in place."""
        self.tuning.attach(model, seed, trains_head=self.conditions.task.labelled is not None)

    @cached_property
    def student_model(self) -> PreTrainedModel:
        """The student on the meta device."""
        return self.student_on("meta")

    @cached_property
    def teacher_models(self) -> dict[str, PreTrainedModel]:
        """The models that teach, by their settings' names; a virtual teacher is none."""
        from dwt_cli.models.making import outline

        head = self.conditions.task.head
        configs = {name: each.config(name, head) for name, each in self.teachers.items()}
        return {name: outline(config, head) for name, config in configs.items() if config}

    @cached_property
    def step_flops(self) -> float:
        """FLOPs of a step of the student without a teacher, forward and backward."""
        return self.conditions.training_flops(self.student_model)

    def taught_flops(self, teacher: Facts | None = None) -> tuple[float, float]:
        """Return the FLOPs of a step for what is compared of the student, and for its teachers.

        Features, and its logits once more where likelihoods of text are compared; and what a policy
        looks at, and centroids as one rank sees them. A teacher's are of its forward pass, and of
        what it learns beside the student. teacher: what is known of one that reads other tokens,
        which are as many as the student's before that is known.
        """
        from dwt_cli.models.flops import FORWARD_AND_BACKWARD

        (ours, theirs), flops = self.features, self.conditions.training_flops
        shown = flops(self.student_model, ours) - flops(self.student_model)
        compared, looked_at = self._comparing_flops
        if over_chunks(self.objectives):
            compared += self._head_flops(self.student_model)
        if teacher and teacher.read:
            asked = self._answer_in_other_tokens(teacher.read, teacher.aligned or 0.0)
        else:
            asked = sum(self.answer_flops(name, theirs) for name in self.teacher_models)
        asked += looked_at
        shown += compared * FORWARD_AND_BACKWARD
        if self.num_shared:  # two products with the head, each time that losses are formed
            sizes = self.conditions.num_outputs * self.student_config.hidden_size
            shown += 4 * self.num_shared * sizes * self.conditions.train.num_parts(1)
        if self.mixture:
            of = self.conditions
            block = of.step_flops(self.student_model) / of.train.batch_size
            shown += self.mixture.student_flops(self._head_flops(self.student_model), block)
        return shown, asked + sum(self.learning_flops.values())

    @property
    def _comparing_flops(self) -> tuple[float, float]:
        """Those of a step, forward, for what objectives make of either side's features."""
        ours = theirs = 0.0
        if self._sides is not None:
            block = Block(self.conditions.length, float(self.conditions.num_targets))
            for each in over_features(self.compared).values():
                of_student, of_teacher = each.flops(*self._sides, block)
                ours, theirs = ours + of_student, theirs + of_teacher
        num_blocks = self.conditions.train.batch_size
        return num_blocks * ours, num_blocks * theirs

    def compared_bytes(self, num_blocks: int) -> int:
        """Return the bytes that objectives keep of the features of so many blocks."""
        if self._sides is None:
            return 0
        sizes = *self._sides, num_blocks, self.conditions.data.block_length
        return sum(each.kept_bytes(*sizes) for each in over_features(self.compared).values())

    def answer_flops(self, name: str, *features: FeatureSpec) -> float:
        """Return the FLOPs of a teacher's forward pass over a step's batch, with these features.

        name: the setting that its settings begin with.
        """
        from dwt_cli.models.flops import forward_flops

        of, model = self.conditions, self.teacher_models[name]
        if (windows := self.windows.get(name)) is None:
            return of.step_flops(model, *features)
        number = self.num_windows(name)
        num_targets, blocks = Fraction(of.num_targets, number), of.train.batch_size * number
        return forward_flops(model, blocks, windows.length, num_targets, *features, ragged=True)

    def _answer_in_other_tokens(self, read: float, aligned: float) -> float:
        """Return `answer_flops` of the teacher; read, aligned: see `Facts`.

        Its head is asked for every token of a chunk, and again at the places where both end.
        """
        from dwt_cli.models.flops import forward_flops

        of, texts = self.conditions, over_chunks(self.objectives)
        length = read * of.data.block_length
        rows = length - 1 if texts else 0.0
        if any(each.at_places for each in texts.values()):
            rows += aligned * of.data.block_length
        model, features = self.teacher_models["teacher"], self.features[1]
        return forward_flops(model, of.train.batch_size, length, rows, features, ragged=True)

    def _head_flops(self, model: PreTrainedModel) -> int:
        """Return the FLOPs of a product of a step's target rows with a head's matrix.

        None of a classifier, whose logits are there.
        """
        if self.conditions.task.labelled:
            return 0
        num_rows = self.conditions.train.batch_size * self.conditions.num_targets
        return 2 * num_rows * model.config.vocab_size * model.config.hidden_size

    @cached_property
    def windows(self) -> dict[str, Windows]:
        """The windows of those teachers that are asked in some, by their settings' names."""
        of, found = self.conditions, {}
        for name, model in self.teacher_models.items():
            read_by = self.teachers[name].windows
            if windows := read_by(model.config, of.data.block_length, of.task.head):
                found[name] = windows
        return found

    def num_windows(self, name: str) -> int:
        """Return how many windows a teacher of `windows` reads of a block.

        One where it is known that it reads other tokens: it reads as much, and no more.
        """
        of, teacher = self.conditions.data, self.teachers[name]
        if of.tokenizer == OWN and any(True for _ in teacher.checkpoints()):
            return 1
        return len(self.windows[name].starts(of.block_length))

    @property
    def learning_flops(self) -> dict[str, float]:
        """FLOPs of a step for what a teacher learns, beside its forward pass, by its setting."""
        head, student = self._head_flops, self.student_model
        return {
            name: self.teachers[name].learning_flops(
                self.answer_flops(name, self.features[1]), head(model), head(student)
            )
            for name, model in self.teacher_models.items()
            if self.teachers[name].learns
        }

    @cached_property
    def _sides(self) -> tuple[PreTrainedConfig, PreTrainedConfig] | None:
        """The student, and the one whose features it is compared with; None: several have none."""
        student = self.student_model.config
        if any(each.is_student for each in self.teachers.values()):
            return student, student
        if list(self.teacher_models) != ["teacher"]:
            return None
        return student, self.teacher_models["teacher"].config

    @cached_property
    def compared(self) -> Mapping[str, Objective]:
        """The objectives between student and teacher, with the layers of these models."""
        return between(self.objectives, *self._sides) if self._sides else {}

    @cached_property
    def features(self) -> tuple[FeatureSpec, FeatureSpec]:
        """The features that the objectives ask the student for, and its teacher."""
        from dwt_cli.models.features import NO_FEATURES

        if self._sides is None:
            return NO_FEATURES, NO_FEATURES
        parts_for(self.compared, *self._sides)  # raises where they cannot be compared
        ours, theirs = requested(self.compared)
        if any(each.is_student for each in self.teachers.values()):
            return ours | theirs, NO_FEATURES
        return ours, theirs | self.teachers["teacher"].shown
