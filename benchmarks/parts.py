"""The project's own parts on synthetic text: what is timed is the code that `dwt-train` runs."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from dwt_cli.base.machine import Machine
from dwt_cli.config import check
from dwt_cli.config.compose import runs_of
from dwt_cli.config.run import Run
from dwt_cli.data.pack import Blocks, write_blocks
from dwt_cli.data.tokenizer import SPECIAL_TOKENS
from dwt_cli.distill.alpha import Schedule
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.features import between, parts_for
from dwt_cli.distill.teacher.options import MadeTeacher
from dwt_cli.distill.teacher.signal import ModelSignal, TeacherSignal
from dwt_cli.models.making import make_model
from dwt_cli.models.options import MadeStudent
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import Beside, TrainBatches
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.options import CausalLM, MaskedLM
from dwt_cli.tasks.task import Targets
from dwt_cli.training.checkpoint import Checkpoints, Counters
from dwt_cli.training.loop import Training

_MIDWAY = 0.5  # of the run: the learning rate is high, and every schedule has a soft weight
_STEPS_OF_TEXT = 16


def compose_run(overrides: Sequence[str]) -> Run:
    """What `dwt-train` would make of these overrides."""
    (run,), _ = runs_of([*overrides, "tracker=none"])
    check.check(run)
    return run


@dataclass(frozen=True)
class Parts:
    """A run's parts, except that its text is random tokens."""

    run: Run
    machine: Machine
    batches: TrainBatches

    @classmethod
    def of(cls, run: Run, machine: Machine | None = None) -> "Parts":
        machine = machine or Machine.of(
            run.launch.device, run.launch.num_threads, run.train.precision
        )
        return cls(run, machine, synthetic_batches(run))

    def signal(self) -> ModelSignal:
        """The teacher, untrained: what its forward pass costs does not depend on its weights."""
        options = self.run.teacher
        assert isinstance(options, MadeTeacher), "give a teacher that is made here"
        return ModelSignal(self._wrapped(make_model(options, options.seed, "teacher")))

    def training(self, schedule: Schedule, signal: TeacherSignal | None) -> Training:
        """The loop with a student of its own."""
        options = self.run.student
        assert isinstance(options, MadeStudent)
        student = make_model(options, self.run.seed, "student")
        setup = None
        if signal is not None:
            objectives, parts = self.run.objective, dict[str, nn.Module]()
            if signal.model is not None:
                configs = student.config, signal.model.model.config
                objectives = between(objectives, *configs)
                parts = parts_for(objectives, *configs)
            setup = Distillation(signal, schedule, objectives, parts)
        model = self._wrapped(student)
        loss = DistillationLoss(setup, compiled=self.run.train.compile)
        return Training(
            model=model,
            loss=loss,
            batches=self.batches,
            optim=self.run.optim,
            options=self.run.train,
            evaluate=lambda model: {},
            eval_every=1,
            checkpoints=Checkpoints(Path(), "", 0, print),
            device=self.machine.device,
            seed=self.run.seed,
        )

    def _wrapped(self, model: PreTrainedModel) -> LanguageModel:
        wrapped = LanguageModel(model, self.machine.dtype)
        if self.run.train.compile:
            wrapped.compile_layers()
        return wrapped.to(self.machine.device)


class Steps:
    """One optimizer step of the loop per call, batch and clipping included."""

    def __init__(self, training: Training) -> None:
        self._training, self._counters = training, Counters()

    def __call__(self) -> None:
        self._training.step(self._counters, _MIDWAY)


class TeacherForwards:
    """One teacher forward pass per call, to its logits, on a step's batch in the step's parts."""

    def __init__(self, parts: Parts, signal: TeacherSignal) -> None:
        batches = parts.batches
        num_parts = batches.batch_size // (parts.run.train.micro_batch_size or batches.batch_size)
        self._signal, self._device = signal, parts.machine.device
        self._dtype = parts.machine.dtype
        self._batches = [
            batches.batch(0, part, num_parts).to(parts.machine.device) for part in range(num_parts)
        ]

    def __call__(self) -> None:
        for batch in self._batches:
            answer = self._signal(batch)
            with torch.autocast(self._device.type, self._dtype):
                answer.targets.dense()


def synthetic_batches(run: Run, beside: Beside | None = None) -> TrainBatches:
    """Random ordinary tokens, as uneven as words, in the project's own shards and targets."""
    size, length = run.data.vocab_size, run.data.block_length
    chances = 1 / np.arange(1, size - len(SPECIAL_TOKENS) + 1)
    ids = len(SPECIAL_TOKENS) + np.random.default_rng(0).choice(
        len(chances), (_STEPS_OF_TEXT * run.train.batch_size, length), p=chances / chances.sum()
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        write_blocks(ids.tolist(), shards, size, len(ids))
        blocks = Blocks(shards)  # stays mapped when the folder is gone
    return TrainBatches(blocks, _targets(run), run.train.batch_size, run.seed, "student", beside)


def _targets(run: Run) -> Targets:
    if isinstance(run.task, MaskedLM):
        mask_id, num_special = SPECIAL_TOKENS.index("[MASK]"), len(SPECIAL_TOKENS)
        return Masking(run.task, run.data.vocab_size, mask_id, tuple(range(num_special)))
    assert isinstance(run.task, CausalLM) and not run.task.separate_documents
    return NextToken()
