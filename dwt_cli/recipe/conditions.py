"""What all trainings and evaluations of a run share, so that their models can be compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from dwt_cli.base.machine import Machine
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.evaluate.options import Eval
from dwt_cli.models.features import NO_FEATURES, FeatureSpec
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, forward_flops
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
    block_length: int
    vocab_size: int

    @property
    def num_targets(self) -> int:
        """The target rows of one block."""
        return self.task.num_targets(self.block_length)

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch_size * self.block_length

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
        return forward_flops(model, size, self.block_length, self.num_targets, features)

    def token_flops(self, model: PreTrainedModel, features: FeatureSpec = NO_FEATURES) -> float:
        """Return the FLOPs of one forward pass, by token that is read."""
        return self.step_flops(model, features) / self.tokens_per_step

    def wrapped(self, model: PreTrainedModel, machine: Machine) -> LanguageModel:
        """Return a model as it is called, where it is: a training brings it to the device."""
        return LanguageModel(model, machine.dtype, self.train.compile)

    def heldout(self, corpus: Corpus, num_ranks: int) -> HeldoutBatches:
        """Return the held-out batches that every model is evaluated on."""
        size = self.train.micro_batch_size or self.train.batch_size // num_ranks
        targets = self.task.targets(corpus.tokenizer)
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
        name, identity = stage.name, stage.identity
        return Setup(
            purpose, name, identity, folder, seed, length, optim, self.parallel, every, shares
        )

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
