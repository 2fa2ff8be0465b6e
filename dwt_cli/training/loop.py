"""The training loop of a teacher, a stand-alone student, a student with a teacher, a classifier.

A step's loss is a sum over target tokens, divided once by the step's number of targets, so that
splitting a batch into micro-batches changes nothing but rounding.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dwt_cli.base.interrupt import Interrupt, Interrupted
from dwt_cli.base.randomness import seed_for
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training.checkpoint import Checkpoints, Counters
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.options import Ddp, NonFinite, Optim, Parallel, Train
from dwt_cli.training.parallel import Gradients, load_state, shard, state_on_first
from dwt_cli.training.profile import span
from dwt_cli.training.protocols import Batches, Loss, Moment, Numbers, Observer
from dwt_cli.training.rollback import Diverged

Metrics = dict[str, float]
_WHOLE = Ddp()

_NUM_RECENT = 10
"""Steps of the running mean that a loss is compared with."""


@dataclass(frozen=True)
class Training:
    """One training: what a task gives (model, loss, batches, evaluate), and how it is trained.

    See `dwt_cli.training.protocols`. evaluate: returns held-out metrics of a model, ``loss`` among
    them. eval_every: steps; None: at the end alone. compile: called where a checkpoint has
    compiled layers; None: they cannot be. enough: the held-out loss that ends it.
    """

    model: Wrapper
    loss: Loss
    batches: Batches
    optim: Optim
    options: Train
    evaluate: Callable[[Any], Metrics]
    eval_every: int | None
    checkpoints: Checkpoints
    device: torch.device
    seed: int
    observers: Sequence[Observer] = ()
    ranks: Ranks = ALONE
    compile: Callable[[], None] | None = None
    enough: float = -math.inf

    @cached_property
    def optimizer(self) -> Optimizer:
        """The optimiser of model and loss."""
        return Optimizer(self.model, self.optim, self.loss.aux)

    def progress(self, counters: Counters) -> float:
        """Return the share of the training that is done, in [0, 1]; its nearest limit counts."""
        done = (counters.step, counters.elapsed_s)
        return self.options.progress(self.batches.steps_per_epoch, *done)

    def run(self, before: Numbers | None = None) -> Counters:
        """Train from the newest checkpoint, or from the beginning, to the end; see `train`.

        before: held-out metrics, which are reported first when a training begins. Raises
        `Interrupted` after a checkpoint when a signal asks to stop, and `Diverged` when a loss or
        gradient is not finite, or has risen too far, and the settings do not say to skip it.
        """
        counters = self.checkpoints.restore(self.model, self.loss.aux, self.optimizer)
        if counters.compiled and self.compile:
            self.compile()
        for observer in self.observers:
            observer.resumed(counters.step)
            if before and counters.step == 0:
                observer.evaluated(0, before)
        with Interrupt(reports=self.ranks.is_first) as interrupt:
            while (progress := self.progress(counters)) < 1 and _best(counters) > self.enough:
                self.step(counters, progress)
                best = self._evaluate(counters)
                last = self.progress(counters) == 1  # evaluating takes time too
                due = counters.step % self.options.checkpoint_every == 0
                # a signal reaches the ranks at different times: they stop after the same step
                stop = int(self.ranks.largest(interrupt.number))
                if due or best or last or stop:
                    counters.compiled = bool(self.options.compile) and self.model.is_compiled
                    self.checkpoints.save(self.model, self.loss.aux, self.optimizer, counters)
                if stop:
                    raise Interrupted(counters.step, stop)
        return counters

    def step(self, counters: Counters, progress: float) -> None:
        """Take the step after ``counters.step``, count it and report its metrics."""
        started = time.perf_counter()
        lr = self.optimizer.set_lr(progress)
        metrics = self.accumulate(counters.step, Moment(progress, lr, counters.memory))
        with span("clipping"):
            norm, aux_norm = self._gradients.clip(self.optim.clip_norm)
        worst = norm if math.isfinite(aux_norm) else aux_norm
        why = self._diverges(metrics, worst, counters)
        if not why:
            with span("optimiser"):
                self.optimizer.step()
        elif self.options.non_finite is NonFinite.skip:
            counters.num_skipped += 1
        else:
            remedy = (
                "lower optim.lr or raise optim.warmup, or begin again with "
                "train.non_finite=skip or rollback"
            )
            raise Diverged(why, remedy, counters)
        self.optimizer.zero_grad()
        counters.memory = dict(self.loss.remember(counters.memory, metrics))
        counters.step += 1
        seconds = self.ranks.largest(time.perf_counter() - started)
        counters.elapsed_s += seconds
        metrics |= {
            "lr": lr,
            "grad_norm": norm,
            "num_skipped": counters.num_skipped,
            "tokens": counters.step * self.batches.tokens_per_step,
            "tokens_per_s": self.batches.tokens_per_step / seconds,
            "elapsed_s": counters.elapsed_s,
        }
        for observer in self.observers:
            with span("logging"):
                observer.stepped(counters.step, self.progress(counters), metrics)

    def _diverges(self, metrics: Metrics, norm: float, counters: Counters) -> str:
        """Return why a step cannot be trained on, if so; count its hard loss to the recent ones."""
        if not (math.isfinite(metrics["loss"]) and math.isfinite(norm)):
            return f"loss {metrics['loss']}, gradient norm {norm}"
        loss = metrics.get("hard_loss", metrics["loss"])  # weights over time do not move it
        before = loss if counters.recent_loss is None else counters.recent_loss
        counters.recent_loss = before + (loss - before) / _NUM_RECENT
        if self.options.max_rise is not None and loss - before > self.options.max_rise:
            return f"hard loss {loss:.4g}, {loss - before:.3g} nats above that of the steps before"
        return ""

    @property
    def prefetches(self) -> bool:
        """Whether a thread reads ahead: a GPU would wait, a CPU's cores have enough to do."""
        return self.device.type == "cuda"

    @cached_property
    def _read(self) -> Callable[[int, int], Any]:
        """Function from (step, number) to that micro-batch of the step, on the device."""
        parts, num_parts = self._micro_batches

        def read(step: int, part: int) -> Any:
            return self.batches.batch(step, part, num_parts).to(self.device)

        return Prefetch(read, parts) if self.prefetches else read

    @property
    def _micro_batches(self) -> tuple[range, int]:
        """Numbers of this rank's micro-batches in a step, and how many all ranks have."""
        num_ours = self.options.num_parts(self.ranks.size)
        first = num_ours * self.ranks.rank
        return range(first, first + num_ours), num_ours * self.ranks.size

    @cached_property
    def _gradients(self) -> Gradients:
        return Gradients(self.model, self.loss.aux, self.ranks)

    def accumulate(self, step: int, moment: Moment) -> dict[str, float]:
        """Accumulate a step's gradient over its micro-batches; return the step's mean metrics.

        The micro-batches of all ranks are numbered through: rank 0 has the first ones.
        """
        num_targets, num_ranks = self.batches.num_targets(step), self.ranks.size
        parts, _ = self._micro_batches
        sums: dict[str, Tensor] = {}
        facts: dict[str, float] = {}
        self.model.train()
        for part in parts:
            with span("text"):
                batch = self._read(step, part)
            # dropout, if there is any, draws from here
            torch.manual_seed(seed_for(self.seed, "dropout", step, part))
            with self._gradients.micro_batch(is_last=part == parts[-1]):
                with span("student"):
                    loss = self.loss(self._gradients.model, batch, moment)
                    # what follows takes the mean over ranks
                    total = loss.total * num_ranks / num_targets
                total.backward()
            facts = loss.facts
            for name, value in {"loss": loss.total.detach(), **loss.sums}.items():
                sums[name] = sums[name] + value if name in sums else value
        names, values = zip(*sums.items(), strict=True)
        means = (self.ranks.sum(torch.stack(values)) / num_targets).tolist()
        return dict(zip(names, means, strict=True)) | facts

    def _evaluate(self, counters: Counters) -> bool:
        """Evaluate on held-out text if it is time; return whether the model is the best so far."""
        last = self.progress(counters) == 1
        due = self.eval_every is not None and counters.step % self.eval_every == 0
        if not (last or due):
            return False
        started = time.perf_counter()
        metrics = self.evaluate(self.model)
        counters.elapsed_s += self.ranks.largest(time.perf_counter() - started)
        for observer in self.observers:
            observer.evaluated(counters.step, metrics)
        if not metrics["loss"] < _best(counters):  # nor is a loss that is not a number the best
            return False
        counters.best_loss, counters.best_step = metrics["loss"], counters.step
        return True


def _best(counters: Counters) -> float:
    return math.inf if counters.best_loss is None else counters.best_loss


class Prefetch:
    """``make(step, part)``, one part ahead of a caller that takes all parts of all steps in turn.

    make: a pure function, so that it does not matter who calls it and when. An error in it is
    raised by the call that needs the part. parts: those of this process, the same in every step.
    """

    def __init__(self, make: Callable[[int, int], Any], parts: range) -> None:
        self._make, self._parts = make, parts
        self._thread = ThreadPoolExecutor(1, "batches")
        self._coming: dict[tuple[int, int], Future[Any]] = {}

    def __call__(self, step: int, part: int) -> Any:
        coming = self._coming.get((step, part))  # none at first, and after a jump
        made = (coming or self._thread.submit(self._make, step, part)).result()
        after = (step, part + 1) if part + 1 in self._parts else (step + 1, self._parts[0])
        self._coming = {after: self._thread.submit(self._make, *after)}
        return made


def train(
    training: Training,
    observers: Callable[[Callable[[], None]], Iterable[Observer]],
    parallel: Parallel = _WHOLE,
) -> tuple[Counters, Metrics, Metrics]:
    """Bring a model onto its device or into shards, train it to the end, and make it whole again.

    Returns the loop's counters, and the held-out metrics before the first step and after the last.
    A model that is sharded comes from CPU memory, and when this returns it is there again, on rank
    0 alone. observers: makes them, given what brings a sharded model's weights up to date. Raises
    what `Training.run` raises.
    """
    given = model = training.model
    ranks, device = training.ranks, training.device
    sharding = parallel.sharding(ranks.size)
    training.loss.aux.to(device)
    if sharding:
        model.cpu()  # it was evaluated on the device before, if it was remapped
        if ranks.is_first:
            model = type(given)(copy.deepcopy(given.model), given.dtype, device=device)
        shard(model, training.loss.aux, sharding, device, given.dtype)
    else:
        model.to(device)
    latest: Metrics = {}

    def evaluated(model: Wrapper) -> Metrics:
        latest.update(training.evaluate(model))
        return latest

    def gather() -> None:
        if sharding and (state := state_on_first(model.model)):
            load_state(given.model, state)

    watching = list(observers(gather))
    before = {} if training.eval_every is None else dict(evaluated(model))
    latest.clear()
    placed = replace(training, model=model, evaluate=evaluated, observers=watching)
    counters = placed.run(before)
    gather()
    return counters, before, latest or evaluated(model)  # nothing was left after a restart
