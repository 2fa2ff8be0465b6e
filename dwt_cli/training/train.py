"""The one way to train: a model onto its device or into shards, through the loop, whole again."""

import copy
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import torch

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training.checkpoint import Checkpoints, Counters
from dwt_cli.training.loop import Training
from dwt_cli.training.options import Ddp, Optim, Parallel, Train
from dwt_cli.training.parallel import load_state, shard, state_on_first
from dwt_cli.training.protocols import Batches, Loss, Observer

Model = TypeVar("Model", bound=Wrapper)
Metrics = dict[str, float]
_WHOLE = Ddp()


class Trained(NamedTuple):
    """The loop's counters, and the held-out metrics before the first step and after the last."""

    counters: Counters
    before: Metrics
    after: Metrics


def train(
    model: Model,
    loss: Loss,
    batches: Batches,
    evaluate: Callable[[Model], Metrics],
    *,
    options: Train,
    optim: Optim,
    eval_every: int | None,
    seed: int,
    checkpoints: Checkpoints,
    observers: Callable[[Callable[[], None]], Iterable[Observer]],
    device: torch.device,
    parallel: Parallel = _WHOLE,
    ranks: Ranks = ALONE,
) -> Trained:
    """Train a model from its newest checkpoint, or from the beginning, to the end.

    A model that is sharded comes from CPU memory, and when this returns it is there again, on rank
    0 alone. evaluate: returns held-out metrics of a model, ``loss`` among them. eval_every: steps;
    None: at the end alone. observers: makes them, given what brings a sharded model's weights up
    to date. Raises what `Training.run` raises.
    """
    given, sharding = model, parallel.sharding(ranks.size)
    loss.aux.to(device)
    if sharding:
        model.cpu()  # it was evaluated on the device before, if it was remapped
        if ranks.is_first:
            model = type(given)(copy.deepcopy(given.model), given.dtype, device=device)
        shard(model, loss.aux, sharding, device, given.dtype)
    else:
        model.to(device)
    latest: Metrics = {}

    def evaluated() -> Metrics:
        latest.update(evaluate(model))
        return latest

    def gather() -> None:
        if sharding and (state := state_on_first(model.model)):
            load_state(given.model, state)

    watching = list(observers(gather))
    before = {} if eval_every is None else dict(evaluated())
    training = Training(
        model=model,
        loss=loss,
        batches=batches,
        optim=optim,
        options=options,
        evaluate=evaluated,
        eval_every=eval_every,
        checkpoints=checkpoints,
        device=device,
        seed=seed,
        observers=watching,
        ranks=ranks,
    )
    latest.clear()
    counters = training.run(before)
    gather()
    return Trained(counters, before, latest or evaluated())  # nothing was left after a restart
