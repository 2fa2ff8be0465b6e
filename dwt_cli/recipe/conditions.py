"""What all trainings and evaluations of a run share, so that their models can be compared."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel

from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import Ranks
from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.evaluate.options import Eval
from dwt_cli.models.features import NO_FEATURES, FeatureSpec
from dwt_cli.models.flops import forward_flops
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import HeldoutBatches, TrainBatches
from dwt_cli.tasks.options import Task
from dwt_cli.training.options import Optim, Parallel, Train
from dwt_cli.training.parallel import shard


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

    # ------------------------------------------------------------------------------- the sizes

    @property
    def num_targets(self) -> int:
        """The target rows of one block."""
        return self.task.num_targets(self.block_length)

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch_size * self.block_length

    def step_flops(self, model: PreTrainedModel, features: FeatureSpec = NO_FEATURES) -> float:
        """Return the FLOPs of one forward pass over a step's batch; features: those asked for."""
        size = self.train.batch_size
        return forward_flops(model, size, self.block_length, self.num_targets, features)

    def token_flops(self, model: PreTrainedModel, features: FeatureSpec = NO_FEATURES) -> float:
        """Return the FLOPs of one forward pass, by token that is read."""
        return self.step_flops(model, features) / self.tokens_per_step

    def num_steps(self, num_tokens: int | None) -> int | None:
        """Return the steps of the run's own training on so many tokens; None if not known."""
        epoch = None if num_tokens is None else num_tokens / self.tokens_per_step
        return self.train.num_steps(epoch)

    def lasting(self, steps: int) -> Train:
        """Return the run's way of training, for a length of its own."""
        return replace(self.train, max_steps=steps, epochs=None, max_minutes=None)

    # ----------------------------------------------------------------------------- the batches

    def batches(self, corpus: Corpus, seed: int, purpose: str) -> TrainBatches:
        """Return the training batches, a function of seed and purpose."""
        targets = self.task.targets(corpus.tokenizer)
        return TrainBatches(corpus.train, targets, self.train.batch_size, seed, purpose)

    def heldout(self, corpus: Corpus, num_ranks: int) -> HeldoutBatches:
        """Return the held-out batches that every model is evaluated on."""
        size = self.train.micro_batch_size or self.train.batch_size // num_ranks
        targets = self.task.targets(corpus.tokenizer)
        return HeldoutBatches(corpus.heldout, targets, self.eval.num_blocks, size)

    def evaluation(
        self, corpus: Corpus, machine: Machine, ranks: Ranks
    ) -> Callable[[LanguageModel], dict[str, float]]:
        """Return the function from a model to its held-out metrics; all ranks call it."""
        heldout = self.heldout(corpus, ranks.size)
        return lambda model: heldout_metrics(model, heldout, machine.device, ranks)

    # ------------------------------------------------------------------------------ the models

    def wrapped(self, model: PreTrainedModel, machine: Machine) -> LanguageModel:
        """Return a model as it is called, where it is: `train` brings it to the device."""
        return LanguageModel(model, machine.dtype, self.train.compile)

    def share_teacher(self, wrapped: LanguageModel, machine: Machine, ranks: Ranks) -> None:
        """Leave each rank its share of a teacher, if that is asked for."""
        sharding = self.parallel.sharding(ranks.size)
        if sharding and sharding.shard_teacher:
            shard(wrapped, nn.ModuleDict(), sharding, machine.device, machine.dtype)
