"""How all stages of a run train and evaluate their models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwt_cli.data.options import Data
from dwt_cli.evaluate.options import Eval
from dwt_cli.recipe.stage import Context, Stage
from dwt_cli.tasks.options import Task
from dwt_cli.track.display import TrainingDisplay
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.track.summary import Facts
from dwt_cli.training.options import NonFinite, Optim, Parallel, Train

if TYPE_CHECKING:  # what is not carried out needs no torch
    from transformers import PreTrainedModel

    from dwt_cli.base.machine import Machine
    from dwt_cli.data.corpus import Corpus
    from dwt_cli.models.features import FeatureSpec
    from dwt_cli.models.wrapper import Wrapper
    from dwt_cli.tasks.batches import Beside
    from dwt_cli.tasks.texts import LabelledTexts
    from dwt_cli.training.checkpoint import Checkpoints
    from dwt_cli.training.protocols import Loss, Observer


@dataclass(frozen=True)
class Conditions:
    """The task, the sizes of its blocks, and how models are trained on it and evaluated.

    mean_length: of texts that are no blocks, in tokens.
    """

    task: Task
    train: Train
    optim: Optim
    eval: Eval
    parallel: Parallel
    data: Data
    mean_length: Callable[[], float] | None = field(default=None, compare=False)

    @property
    def length(self) -> float:
        """The tokens of a sample, of texts in the mean, without padding.

        FLOPs are of it: attention, which grows with the square, is charged for the mean length.
        """
        return self.mean_length() if self.mean_length else self.data.block_length

    @property
    def num_outputs(self) -> int:
        """The logits of a target row: the vocabulary's, or the classes'."""
        labelled = self.task.labelled
        return labelled.head.num_outputs if labelled else self.data.vocab_size

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
        return round(self.train.batch_size * self.length)

    def lasting(self, steps: int) -> Conditions:
        """Return the same for trainings of another length."""
        train = replace(
            self.train, max_steps=steps, epochs=None, max_minutes=None, compile_with=None
        )
        return replace(self, train=train)

    def step_flops(self, model: PreTrainedModel, *features: FeatureSpec) -> float:
        """Return the FLOPs of one forward pass over a step's batch, with these features."""
        from dwt_cli.models.flops import forward_flops

        return forward_flops(model, *self._sizes(features))

    def training_flops(self, model: PreTrainedModel, *features: FeatureSpec) -> float:
        """Return those of its forward and backward passes, of adapters as one rank has them."""
        from dwt_cli.models.adapters import adapters
        from dwt_cli.models.flops import FORWARD_AND_BACKWARD, training_flops

        own = sum(adapter.flops for adapter in adapters(model)) * self.train.num_parts(1)
        return training_flops(model, *self._sizes(features)) + own * FORWARD_AND_BACKWARD

    def _sizes(self, features: tuple[FeatureSpec, ...]) -> tuple[Any, ...]:
        """Return the arguments of `forward_flops` for a step, after the model."""
        if self.task.labelled:  # its last layer runs whole
            features = (frozenset({("hidden", -1)}),)
        return self.train.batch_size, self.length, self.num_targets, *features

    def token_flops(self, model: PreTrainedModel, *features: FeatureSpec) -> float:
        """Return the FLOPs of one forward pass, by token that is read."""
        return self.step_flops(model, *features) / self.tokens_per_step

    def wrapped(self, model: PreTrainedModel, machine: Machine) -> Any:
        """Return a model as it is called, where it is: a training brings it to the device."""
        from dwt_cli.models.wrapper import Classifier, LanguageModel

        kind = Classifier if self.task.labelled else LanguageModel
        return kind(model, machine.dtype, device=machine.device)

    def heldout(self, corpus: Any, num_ranks: int) -> Any:
        """Return the held-out batches that every model is evaluated on; the first part of texts."""
        from dwt_cli.recipe.samples import heldout

        return next(iter(heldout(self, corpus, num_ranks).values()))

    def evaluation(self, corpus: Any, at: Context) -> Callable[[Wrapper], dict[str, float]]:
        """Return the function from a model to its held-out metrics; all ranks call it."""
        from dwt_cli.evaluate.lm import asked
        from dwt_cli.recipe.samples import measured

        metrics = measured(self, corpus, at, at.ranks)
        return lambda model: metrics(asked(model))

    def fit(
        self,
        stage: Stage,
        model: Wrapper,
        loss: Loss,
        corpus: Corpus | LabelledTexts,
        at: Context,
        *,
        purpose: str,
        seed: int,
        folder: Path,
        shares: Sequence[float] = (),
        save: Callable[[Path], None] | None = None,
        compile_loss: Callable[[], None] | None = None,
        enough: float = -math.inf,
        beside: Beside | None = None,
        watching: Sequence[Observer] = (),
    ) -> Facts:
        """Train a stage's model, and evaluate it; return its facts.

        purpose, seed: what its batches are a function of. folder: of metrics, checkpoints and
        snapshots. shares: of the training, at which ``save`` writes the model. compile_loss: called
        when layers are compiled; None: they cannot be, as where their features are captured.
        enough: see `Training`. beside: see `TrainBatches`. watching: observers of every rank, which
        come before those who look at the model.
        """
        from dwt_cli.models.flops import num_parameters
        from dwt_cli.recipe.compiled import compiling_of
        from dwt_cli.recipe.samples import train_batches
        from dwt_cli.training.loop import Training, train
        from dwt_cli.training.profile import Profile
        from dwt_cli.training.rollback import OtherText, Rollbacks
        from dwt_cli.training.snapshots import Snapshots, snapshots_of

        parameters = num_parameters(model.model)
        step_flops = self.training_flops(model.model)
        rollbacks = Rollbacks.of(self.checkpoints(stage, folder, at), self.train)
        text = train_batches(self, corpus, seed, purpose, beside)
        batches = OtherText(text, rollbacks)

        def observers(gather: Callable[[], None]) -> Iterator[Observer]:
            yield from watching
            yield TrainingDisplay(at.show, stage.name)
            if at.ranks.is_first:
                folder.mkdir(parents=True, exist_ok=True)
                yield MetricsLog(folder / "metrics.jsonl", self.train.log_every)
            if save is not None:
                yield Snapshots(save, snapshots_of(folder), shares, gather, at.ranks)
            if compiling is not None:
                yield compiling
            if profile is not None:
                yield profile

        compiling = compiling_of(self, model, compile_loss, folder, at)
        training = Training(
            model=model,
            loss=loss,
            batches=batches,
            optim=self.optim,
            options=self.train,
            evaluate=self.evaluation(corpus, at),
            eval_every=self.eval.every,
            checkpoints=rollbacks.checkpoints,
            device=at.machine.device,
            seed=seed,
            ranks=at.ranks,
            compile=compiling.begin if compiling else None,
            enough=enough,
        )
        with_profile = self.train.profile and purpose == "student" and at.ranks.is_first
        profile = Profile(model, at.machine.device, folder, at.show.say) if with_profile else None
        rolling_back = rollbacks.rolling_back(snapshots_of(folder), batches.steps_per_epoch)
        with rolling_back, compiling or nullcontext(), profile or nullcontext():
            counters, before, after = train(training, observers, self.parallel)
        taught = sum(each.taught for each in rollbacks.known)
        return Facts(
            parameters=parameters,
            steps=counters.step,
            tokens=counters.step * batches.tokens_per_step,
            epochs=counters.step / batches.steps_per_epoch,
            num_skipped=counters.num_skipped,
            num_undone=rollbacks.undone or None,
            num_taught=int(counters.memory.get("num_taught", 0)) + taught,
            heldout_at_start=before,
            heldout=after,
            best_heldout={"loss": counters.best_loss, "step": counters.best_step},
            flops=step_flops * (counters.step + rollbacks.undone),
            step_flops=step_flops,
            seconds=counters.elapsed_s + sum(each.seconds for each in rollbacks.known),
        )

    def checkpoints(self, stage: Stage, folder: Path, at: Context) -> Checkpoints:
        """Return the checkpoints of a stage's training."""
        from dwt_cli.training.checkpoint import Checkpoints

        keep, place = self.train.keep_checkpoints, folder / "checkpoints"
        behind = self.train.rollback_steps if self.train.non_finite is NonFinite.rollback else 0
        return Checkpoints(
            place, stage.identity, keep, at.show.say, at.ranks, stage.formerly, behind
        )
