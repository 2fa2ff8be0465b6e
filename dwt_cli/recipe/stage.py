"""A stage of a recipe, where it is carried out, and the one way to train in it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import Ranks
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.track.display import Display, TrainingDisplay
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.track.summary import Facts
from dwt_cli.training import train as training
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.options import Optim, Parallel, Train
from dwt_cli.training.protocols import Batches, Loss, Observer
from dwt_cli.training.snapshots import Snapshots, snapshots_of

Done = dict[str, Any]
"""The artifacts of the stages that are done, by the stages' names."""


class Stage(ABC):
    """A step from options to an artifact. It holds values alone: nothing is opened to make one.

    name: its own among the stages of a recipe. kind: of its artifact in the cache, if it is there.
    """

    name: str
    kind: ClassVar[str | None] = None

    @property
    @abstractmethod
    def identity(self) -> str:
        """The fingerprint of what determines the artifact: own options, and earlier stages."""

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of its training, as far as ``done`` lets them be known; else None."""
        return 0.0

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
    def carry_out(self, done: Done, at: "Context") -> Any:
        """Return the artifact: found, finished, or made. All ranks are here."""


@dataclass(frozen=True)
class Site:
    """Where stages are carried out: this machine, its cache, and the other ranks of the run."""

    machine: Machine
    cache: Cache
    ranks: Ranks

    def at(self, folder: Path, show: Display) -> "Context":
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
        self.ranks.agree({f"prepared {kind}": atomic.sum_of(folder)})
        return folder

    def trained(self, stage: Stage, make: Callable[[Path], None], about: dict[str, Any]) -> Path:
        """Return a stage's artifact that all ranks make together and rank 0 writes."""
        kind, ranks = str(stage.kind), self.ranks
        made_in: list[str] = []

        def making(folder: Path) -> None:
            made_in.append(str(folder))
            ranks.from_first(f"the {kind}'s turn", lambda: str(folder))
            make(folder)

        if ranks.is_first:
            place = self.cache.get(kind, stage.place(self.cache).name, making, about)
            if not made_in:
                ranks.from_first(f"the {kind}'s turn", lambda: None)
        elif folder := ranks.from_first(f"the {kind}'s turn", lambda: None):
            make(Path(folder))
        place = Path(ranks.from_first(f"the {kind}", lambda: str(place)))
        if not stage.is_kept(self.cache):
            raise UserError(
                f"rank {ranks.rank} does not see {place}: set run.cache to a folder that all "
                "nodes share"
            )
        return place


@dataclass(frozen=True)
class Setup:
    """A training: what it is, where it keeps its state, how long it lasts and at what rates.

    purpose, seed: what its randomness is a function of. stage: whose bar shows it. identity,
    formerly: what checkpoints have to be of. folder: of metrics, checkpoints and snapshots. shares:
    of the training, at which its model is saved.
    """

    purpose: str
    stage: str
    identity: str
    folder: Path
    seed: int
    train: Train
    optim: Optim
    parallel: Parallel
    eval_every: int
    shares: Sequence[float] = ()
    formerly: str | None = None


def train(
    setup: Setup,
    model: LanguageModel,
    loss: Loss,
    batches: Batches,
    evaluate: Callable[[LanguageModel], dict[str, float]],
    step_flops: float,
    at: Context,
    save: Callable[[Path], None] | None = None,
) -> Facts:
    """Train a model with its record, display and snapshots; return its facts.

    See `dwt_cli.training.train`. step_flops: of the model, forward and backward. save: writes it.
    """
    parameters = num_parameters(model.model)

    def observers(gather: Callable[[], None]) -> Iterator[Observer]:
        yield TrainingDisplay(at.show, setup.stage)
        if at.ranks.is_first:
            setup.folder.mkdir(parents=True, exist_ok=True)
            yield MetricsLog(setup.folder / "metrics.jsonl", setup.train.log_every)
        if save is not None:
            yield Snapshots(save, snapshots_of(setup.folder), setup.shares, gather, at.ranks)

    counters, before, after = training.train(
        model,
        loss,
        batches,
        evaluate,
        options=setup.train,
        optim=setup.optim,
        eval_every=setup.eval_every,
        seed=setup.seed,
        checkpoints=Checkpoints(
            setup.folder / "checkpoints",
            setup.identity,
            setup.train.keep_checkpoints,
            at.show.say,
            at.ranks,
            setup.formerly,
        ),
        observers=observers,
        device=at.machine.device,
        parallel=setup.parallel,
        ranks=at.ranks,
    )
    return Facts(
        parameters=parameters,
        steps=counters.step,
        tokens=counters.step * batches.tokens_per_step,
        epochs=counters.step / batches.steps_per_epoch,
        num_skipped=counters.num_skipped,
        num_taught=int(counters.memory.get("num_taught", 0)),
        heldout_at_start=before,
        heldout=after,
        best_heldout={"loss": counters.best_loss, "step": counters.best_step},
        flops=step_flops * counters.step,
        seconds=counters.elapsed_s,
    )
