"""A stage of a recipe, where it is carried out, and the one way to train in it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import Ranks
from dwt_cli.evaluate.snapshots import Snapshots, snapshots_of
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.track.display import Display, TrainingDisplay
from dwt_cli.track.metrics import MetricsLog
from dwt_cli.track.summary import Facts
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.loop import Training
from dwt_cli.training.options import Optim, Parallel, Train
from dwt_cli.training.parallel import load_state, shard, state_on_first
from dwt_cli.training.protocols import Batches, Loss, Observer

Done = dict[str, Any]
"""The artifacts of the stages that are done, by the stages' names."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where stages are carried out: this machine, its cache, and the other ranks of the run."""

    machine: Machine
    cache: Cache
    ranks: Ranks

    def at(self, folder: Path, show: Display) -> "Context":
        """Return the context of the stages of one run."""
        return Context(**vars(self), folder=folder, show=show)


@dataclass(frozen=True, kw_only=True)
class Context(Site):
    """A site, a run's directory, which rank 0 writes, and what shows how far a stage is."""

    folder: Path
    show: Display

    def prepared(
        self, kind: str, identity: str, make: Callable[[Path], None], about: dict[str, Any]
    ) -> Path:
        """Return an artifact of the cache that one rank of each machine makes, and all open."""
        folder = Path(
            self.ranks.once_per_machine(
                f"the {kind}", lambda: str(self.cache.get(kind, identity, make, about))
            )
        )
        self.ranks.agree({f"prepared {kind}": atomic.sum_of(folder)})
        return folder

    def trained(
        self, kind: str, identity: str, make: Callable[[Path], None], about: dict[str, Any]
    ) -> Path:
        """Return an artifact of the cache that all ranks make together and rank 0 writes."""
        made_in: list[str] = []

        def making(folder: Path) -> None:
            made_in.append(str(folder))
            self.ranks.from_first(f"the {kind}'s turn", lambda: str(folder))
            make(folder)

        if self.ranks.is_first:
            place = self.cache.get(kind, identity, making, about)
            if not made_in:
                self.ranks.from_first(f"the {kind}'s turn", lambda: None)
        elif folder := self.ranks.from_first(f"the {kind}'s turn", lambda: None):
            make(Path(folder))
        place = Path(self.ranks.from_first(f"the {kind}", lambda: str(place)))
        if not self.cache.holds(kind, identity):
            raise UserError(
                f"rank {self.ranks.rank} does not see {place}: set run.cache to a folder that all "
                "nodes share"
            )
        return place


class Stage(ABC):
    """From options to an artifact. A stage is made of values alone: what it is can be asked of it
    before, and without, its being carried out.

    name: its own among the stages of a recipe.
    """

    name: str

    @property
    @abstractmethod
    def identity(self) -> str:
        """The fingerprint of what determines the artifact: own options, and earlier stages."""

    @property
    def bars(self) -> tuple[str, ...]:
        """The bars that it has on the display."""
        return (self.name,)

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of its training as far as they are known once ``done`` is; or None."""
        return 0.0

    def is_kept(self, cache: Cache) -> bool:
        """Return whether the cache has its artifact."""
        return False

    @abstractmethod
    def carry_out(self, done: Done, at: Context) -> Any:
        """Return the artifact: found, finished, or made. All ranks are here."""


@dataclass(frozen=True)
class Setup:
    """A training: what it is, where it keeps its state, how long it lasts and at what rates.

    purpose, seed: what its randomness is a function of. stage: whose bar shows it. identity: what
    checkpoints have to be of. folder: of metrics, checkpoints and snapshots. step_flops: of the
    model, forward and backward. shares: of the training, at which `save` is called.
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
    step_flops: float
    shares: Sequence[float] = ()


def train(
    setup: Setup,
    model: LanguageModel,
    loss: Loss,
    batches: Batches,
    evaluate: Callable[[LanguageModel], dict[str, float]],
    at: Context,
    save: Callable[[Path], None] | None = None,
) -> Facts:
    """Run the loop on a model, from wherever an earlier start has come to; return its facts.

    A model that is sharded comes from CPU memory, and when this returns it is there again, on rank
    0 alone. evaluate: returns held-out metrics of a model, ``loss`` among them. save: writes it.
    """
    whole, sharding = model.model, setup.parallel.sharding(at.ranks.size)
    parameters = num_parameters(whole)
    if sharding:
        model.cpu()  # it was evaluated on the device before, if it was remapped
        if at.ranks.is_first:
            model = LanguageModel(copy.deepcopy(whole), at.machine.dtype)
        shard(model, loss.aux, sharding, at.machine.device, at.machine.dtype)
    else:
        model.to(at.machine.device)
    latest: dict[str, float] = {}

    def evaluated() -> dict[str, float]:
        latest.update(evaluate(model))
        return latest

    def update_whole() -> None:
        if sharding and (state := state_on_first(model.model)):
            load_state(whole, state)

    watching: list[Observer] = [TrainingDisplay(at.show, setup.stage)]
    if at.ranks.is_first:
        watching.append(MetricsLog(setup.folder / "metrics.jsonl", setup.train.log_every))
    if save is not None:
        folder = snapshots_of(setup.folder)
        watching.append(Snapshots(save, folder, setup.shares, update_whole, at.ranks))
    before = dict(evaluated())
    training = Training(
        model=model,
        loss=loss,
        batches=batches,
        optim=setup.optim,
        options=setup.train,
        evaluate=evaluated,
        eval_every=setup.eval_every,
        checkpoints=Checkpoints(
            setup.folder / "checkpoints",
            setup.identity,
            setup.train.keep_checkpoints,
            at.show.say,
            at.ranks,
        ),
        observer=_All(watching, at_start=before),
        device=at.machine.device,
        seed=setup.seed,
        ranks=at.ranks,
    )
    latest.clear()
    counters = training.run()
    update_whole()
    return Facts(
        parameters=parameters,
        steps=counters.step,
        tokens=counters.step * batches.tokens_per_step,
        epochs=counters.step / batches.steps_per_epoch,
        num_skipped=counters.num_skipped,
        num_taught=int(counters.memory.get("num_taught", 0)),
        heldout_at_start=before,
        heldout=latest or evaluated(),  # nothing was left to train after a restart
        best_heldout={"loss": counters.best_loss, "step": counters.best_step},
        flops=setup.step_flops * counters.step,
        seconds=counters.elapsed_s,
    )


class _All:
    """Several observers as one; a training that begins starts with its first metrics."""

    def __init__(self, observers: list[Observer], at_start: Mapping[str, float]) -> None:
        self._observers, self._at_start = observers, at_start

    def resumed(self, step: int) -> None:
        for observer in self._observers:
            observer.resumed(step)
        if step == 0:
            self.evaluated(0, self._at_start)

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.stepped(step, progress, metrics)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.evaluated(step, metrics)
