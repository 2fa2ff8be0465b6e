"""The models of a run as shapes: on the meta device, or of fake tensors; no memory, no numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedModel

from dwt_cli.config.run import Run, checkpoints, path_setting
from dwt_cli.distill.objective.base import Objective
from dwt_cli.distill.objective.feature_losses import feature_losses, requested
from dwt_cli.distill.teacher.options import CheckpointTeacher, MadeTeacher, SingleTeacher
from dwt_cli.models.checkpoint import open_config, outline_of
from dwt_cli.models.features import NO_FEATURES, FeatureSpec
from dwt_cli.models.flops import FORWARD_AND_BACKWARD
from dwt_cli.models.making import outline
from dwt_cli.models.options import Checkpoint, Student
from dwt_cli.recipe.conditions import Conditions


@dataclass(frozen=True)
class Shapes:
    """A run's models without their weights, and the conditions under which they work.

    teachers: single ones, by the setting that their own settings begin with. checkpoints: those
    models that exist, with the setting that names each.
    """

    student: Student
    teachers: Mapping[str, SingleTeacher]
    objectives: Mapping[str, Objective]
    conditions: Conditions
    checkpoints: Sequence[tuple[str, Checkpoint]]

    @classmethod
    def of(cls, run: Run) -> "Shapes":
        """Return those of a run; nothing is opened yet."""
        data, how = run.data, (run.task, run.train, run.optim, run.eval, run.parallel)
        conditions = Conditions(*how, data.block_length, data.vocab_size)
        teachers, opened = dict(run.teacher.each()), list(checkpoints(run))
        return cls(run.student, teachers, run.objective, conditions, opened)

    def student_on(self, device: torch.device | str) -> PreTrainedModel:
        """Return the student on the meta device or, of fake tensors, on any."""
        return self.student.outline(device, self.conditions.task.head)

    def start(self, seed: int) -> PreTrainedModel:
        """Return the student itself, as it is without a teacher's weights."""
        return self.student.start(seed, self.conditions.task.head)

    @cached_property
    def student_model(self) -> PreTrainedModel:
        """The student on the meta device."""
        return self.student_on("meta")

    @cached_property
    def step_flops(self) -> float:
        """FLOPs of a step of the student without a teacher, forward and backward."""
        return self.conditions.step_flops(self.student_model) * FORWARD_AND_BACKWARD

    @cached_property
    def teacher_models(self) -> dict[str, PreTrainedModel]:
        """The models that teach, by their settings' names; a virtual teacher is none."""
        models, head = {}, self.conditions.task.head
        for name, teacher in self.teachers.items():
            if isinstance(teacher, MadeTeacher):
                models[name] = outline(teacher)
            elif isinstance(teacher, CheckpointTeacher):
                config = open_config(path_setting(name), teacher, head, any_family=True)
                models[name] = outline_of(config, head)
        return models

    @cached_property
    def features(self) -> tuple[FeatureSpec, FeatureSpec]:
        """The features that the objectives ask the student for, and its teacher."""
        if list(self.teacher_models) != ["teacher"]:  # several have none in common
            return NO_FEATURES, NO_FEATURES
        student, teacher = self.student_model.config, self.teacher_models["teacher"].config
        return requested(feature_losses(self.objectives, student, teacher).values())
