"""A stage of a recipe, where it is carried out, and how all stages train and evaluate models."""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.data.options import Data
from dwt_cli.evaluate.options import Eval
from dwt_cli.tasks.options import Task
from dwt_cli.track.display import Display, TrainingDisplay
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.track.summary import Facts
from dwt_cli.training.options import NonFinite, Optim, Parallel, Train

if TYPE_CHECKING:  # what is not carried out needs no torch
    from transformers import PreTrainedModel

    from dwt_cli.base.machine import Machine
    from dwt_cli.base.ranks import Ranks
    from dwt_cli.data.corpus import Corpus
    from dwt_cli.models.features import FeatureSpec
    from dwt_cli.models.wrapper import Wrapper
    from dwt_cli.tasks.batches import Beside
    from dwt_cli.tasks.texts import LabelledTexts
    from dwt_cli.training.checkpoint import Checkpoints
    from dwt_cli.training.protocols import Loss, Observer

FACTS = "facts.json"

Done = dict[str, Any]
"""The artifacts of the stages that are done, by the stages' names."""


class Stage(ABC):
    """A step from options to an artifact. It holds values alone: nothing is opened to make one.

    name: its own among the stages of a recipe. kind: of its artifact in the cache, if it is there.
    word: the first of its fingerprint. grows: whether each run may add to the artifact.
    """

    name: str
    grows: ClassVar[bool] = False
    kind: ClassVar[str | None] = None
    word: ClassVar[str]

    @property
    def parts(self) -> dict[str, Any]:
        """What determines the artifact, by name: own options, and earlier stages' fingerprints."""
        raise NotImplementedError

    @cached_property
    def identity(self) -> str:
        """The fingerprint of what determines the artifact."""
        return fingerprint(self.word, **self.parts)

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of its training, as far as ``done`` lets them be known; else None."""
        return 0.0

    def cost_beyond(self, asked: dict[str, dict[int, int]]) -> float | None:
        """Return the cost in a study whose earlier runs have ``asked`` for so much, and note it.

        asked: blocks by artifact and seed, of what grows; whatever does not is made once.
        """
        return self.cost({})

    @property
    def formerly(self) -> str | None:
        """The fingerprint of version 0.2, if what it stands for is the same; else None."""
        return None

    def place(self, cache: Cache) -> Path:
        """Return where the cache has the artifact, or shall have it."""
        assert self.kind is not None, "it is not kept in the cache"
        return cache.place(self.kind, cache.kept_as(self.kind, self.identity, self.formerly))

    def is_kept(self, cache: Cache) -> bool:
        """Return whether the cache has its artifact."""
        return self.kind is not None and atomic.is_sealed(self.place(cache))

    @abstractmethod
    def carry_out(self, done: Done, at: Context) -> Any:
        """Return the artifact: found, finished, or made. All ranks are here."""


@dataclass(frozen=True)
class Site:
    """Where stages are carried out: this machine, its cache, and the other ranks of the run."""

    machine: Machine
    cache: Cache
    ranks: Ranks

    def at(self, folder: Path, show: Display) -> Context:
        """Return the context of the stages of one run."""
        return Context(self.machine, self.cache, self.ranks, folder, show)


@dataclass(frozen=True)
class Context(Site):
    """A site, a run's directory, which rank 0 writes, and what shows how far a stage is."""

    folder: Path
    show: Display

    def prepared(self, stage: Stage, make: Callable[[Path], None], about: dict[str, Any]) -> Path:
        """Return a stage's artifact that one rank of each machine makes, and all open."""
        kind = str(stage.kind)

        def get() -> str:
            return str(self.cache.get(kind, stage.place(self.cache).name, make, about))

        folder = Path(self.ranks.once_per_machine(f"the {kind}", get))
        self.ranks.agree({f"prepared {kind}": atomic.file_sum(folder / atomic.MANIFEST)})
        return folder

    def trained(self, stage: Stage, make: Callable[[Path], Facts], about: dict[str, Any]) -> Path:
        """Return a stage's artifact that all ranks train together and rank 0 writes.

        make: trains in a folder and returns the facts, which are kept there (`facts_of`).
        """
        kind, ranks, turn = str(stage.kind), self.ranks, f"the {stage.kind}'s turn"

        def begin(folder: Path) -> None:
            ranks.from_first(turn, lambda: str(folder))
            finish(folder)

        def finish(folder: Path) -> None:
            # a start before this one may have come to the end
            if not ranks.from_first(f"the {kind}'s facts", (folder / FACTS).is_file):
                facts = make(folder)
                if ranks.is_first:
                    atomic.write_json(folder / FACTS, facts.to_json())
            if ranks.is_first:  # finished: nobody resumes it
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)

        if ranks.is_first:
            self.cache.get(kind, stage.place(self.cache).name, begin, about)
            ranks.from_first(turn, lambda: None)
        else:
            while folder := ranks.from_first(turn, lambda: None):
                finish(Path(folder))
        place = stage.place(self.cache)
        if not stage.is_kept(self.cache):
            raise UserError(
                f"rank {ranks.rank} does not see {place}: set run.cache to a folder that all "
                "nodes share"
            )
        return place


def facts_of(place: Path) -> Facts:
    """Return the facts of an artifact that was trained."""
    return Facts.from_json(atomic.read_json(place / FACTS) or {})


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
