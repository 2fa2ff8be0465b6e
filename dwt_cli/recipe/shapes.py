"""A run's models as shapes, without numbers, and the conditions that all its trainings share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel

from dwt_cli.base.machine import Machine
from dwt_cli.config.run import path_setting
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Data
from dwt_cli.distill.objective.base import Objective
from dwt_cli.distill.objective.features import parts_for, requested
from dwt_cli.distill.teacher.options import CheckpointTeacher, MadeTeacher, Teacher
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.evaluate.options import Eval
from dwt_cli.models.checkpoint import open_config
from dwt_cli.models.features import NO_FEATURES, FeatureSpec
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, forward_flops
from dwt_cli.models.making import outline, outline_of
from dwt_cli.models.options import Checkpoint, Student
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe.stage import Context, Setup, Stage, train
from dwt_cli.tasks.batches import HeldoutBatches, TrainBatches
from dwt_cli.tasks.options import Task
from dwt_cli.track.summary import Facts
from dwt_cli.training.options import Optim, Parallel, Train
from dwt_cli.training.protocols import Loss


@dataclass(frozen=True)
class Conditions:
    """The task, the sizes of its blocks, and how models are trained on it and evaluated."""

    task: Task
    train: Train
    optim: Optim
    eval: Eval
    parallel: Parallel
    data: Data

    @property
    def num_targets(self) -> int:
        """The target rows of one block."""
        return self.task.num_targets(self.data.block_length)

    @property
    def heldout_task(self) -> Task:
        """The task of the fixed held-out set."""
        return self.task.on_heldout(self.eval.mask_ratio)

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch_size * self.data.block_length

    def num_steps(self, num_tokens: int | None) -> int | None:
        """Return the steps of a training on so many tokens; None where that is not known."""
        epoch = None if num_tokens is None else num_tokens / self.tokens_per_step
        return self.train.num_steps(epoch)

    def lasting(self, steps: int) -> Train:
        """Return the run's way of training, for a length of its own."""
        return replace(self.train, max_steps=steps, epochs=None, max_minutes=None)

    def step_flops(self, model: PreTrainedModel, features: FeatureSpec = NO_FEATURES) -> float:
        """Return the FLOPs of one forward pass over a step's batch, with these features."""
        size = self.train.batch_size
        return forward_flops(model, size, self.data.block_length, self.num_targets, features)

    def token_flops(self, model: PreTrainedModel, features: FeatureSpec = NO_FEATURES) -> float:
        """Return the FLOPs of one forward pass, by token that is read."""
        return self.step_flops(model, features) / self.tokens_per_step

    def wrapped(self, model: PreTrainedModel, machine: Machine) -> LanguageModel:
        """Return a model as it is called, where it is: a training brings it to the device."""
        return LanguageModel(model, machine.dtype, self.train.compile, machine.device)

    def heldout(self, corpus: Corpus, num_ranks: int) -> HeldoutBatches:
        """Return the held-out batches that every model is evaluated on."""
        size = self.train.micro_batch_size or self.train.batch_size // num_ranks
        targets = self.heldout_task.targets(corpus.tokenizer)
        return HeldoutBatches(corpus.heldout, targets, self.eval.num_blocks, size)

    def evaluation(
        self, corpus: Corpus, at: Context
    ) -> Callable[[LanguageModel], dict[str, float]]:
        """Return the function from a model to its held-out metrics; all ranks call it."""
        heldout = self.heldout(corpus, at.ranks.size)
        return lambda model: heldout_metrics(model, heldout, at.machine.device, at.ranks)

    def setup(
        self,
        purpose: str,
        stage: Stage,
        folder: Path,
        seed: int,
        *,
        steps: int | None = None,
        optim: Optim | None = None,
        shares: Sequence[float] = (),
    ) -> Setup:
        """Return a stage's training; steps, optim: those of the run by default."""
        length = self.train if steps is None else self.lasting(steps)
        optim, every = optim or self.optim, self.eval.every
        of = (purpose, stage.name, stage.identity, folder, seed)
        return Setup(*of, length, optim, self.parallel, every, shares, stage.formerly)

    def fit(
        self,
        setup: Setup,
        model: LanguageModel,
        loss: Loss,
        text: Corpus,
        corpus: Corpus,
        at: Context,
        save: Callable[[Path], None] | None = None,
    ) -> Facts:
        """Train a model on ``text`` and evaluate it on the run's ``corpus``; see `train`."""
        targets, size = self.task.targets(corpus.tokenizer), self.train.batch_size
        batches = TrainBatches(text.train, targets, size, setup.seed, setup.purpose)
        flops = self.step_flops(model.model) * FORWARD_AND_BACKWARD
        return train(setup, model, loss, batches, self.evaluation(corpus, at), flops, at, save)


@dataclass(frozen=True)
class Shapes:
    """A run's models without their weights, and the conditions under which they work.

    teachers: single ones, by the setting that their own settings begin with. checkpoints: those
    models that exist, with the setting that names each.
    """

    student: Student
    teachers: Mapping[str, Teacher]
    objectives: Mapping[str, Objective]
    conditions: Conditions
    checkpoints: Sequence[tuple[str, Checkpoint]]

    def student_on(self, device: torch.device | str) -> PreTrainedModel:
        """Return the student on the meta device or, of fake tensors, on any."""
        head = self.conditions.task.head
        return outline_of(self.student.config(head), head, device)

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
        parts_for(self.objectives, student, teacher)  # raises where they cannot be compared
        return requested(self.objectives)
