"""The options of a training: how long, at what rates, shared among ranks how."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from omegaconf import II

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import Precision, Range, above, added, at_least, between, bookkeeping

LARGEST_BATCH = 1 << 32


class Falling(Enum):
    """Shape of the learning rate's decay to zero: a straight line, or half a cosine."""

    linear = "linear"
    cosine = "cosine"


@dataclass
class Optim:
    """An optimiser's AdamW, and its schedule.

    That is linear warm-up, a plateau, and a decay to zero, as shares of the run.
    """

    lr: float = above(0, 5e-4)
    betas: tuple[float, float] = between(0.0, 0.9999, (0.9, 0.98))
    eps: float = above(0, 1e-6)
    weight_decay: float = at_least(0, 0.01)
    warmup: float = between(0.0, 1.0, 0.05)
    decay: float = between(0.0, 1.0, 0.95)
    falling: Falling = Falling.linear
    clip_norm: float = field(default=1.0, metadata={"range": Range(0.001, infinite=True)})

    @property
    def muon(self) -> "Muon | None":
        """The options of the hidden matrices' own optimiser; None: they have AdamW too."""
        return None

    def lr_factor(self, progress: float) -> float:
        """Return the learning rate at a share of the run, relative to its peak.

        It goes up, stays, and goes down to zero. With ``decay = 1 - warmup`` this is the usual
        linear warm-up and linear (or cosine) decay.
        """
        rising = progress / self.warmup if self.warmup > 0 else 1.0
        left = min(1.0, (1 - progress) / self.decay) if self.decay > 0 else 1.0
        if self.falling is Falling.cosine:
            left = (1 - math.cos(math.pi * left)) / 2
        return max(0.0, min(rising, left))

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the settings together, one line each."""
        if self.warmup + self.decay > 1:
            yield (
                f"{setting}.warmup={self.warmup} and {setting}.decay={self.decay}: "
                "they are shares of one run, together at most 1"
            )
        if len(self.betas) != 2:
            yield (
                f"{setting}.betas={list(self.betas)}: they are two, as in "
                f"{setting}.betas=[0.9,0.98]"
            )


@dataclass
class AdamW(Optim):
    """AdamW on every parameter."""

    tag: ClassVar[str] = "Optim"


@dataclass
class Muon(Optim):
    """Muon on the hidden matrices, AdamW with the fields above on everything else."""

    hidden_lr: float = above(0, 0.02)
    momentum: float = between(0.0, 0.9999, 0.95)
    hidden_weight_decay: float = at_least(0, 0.0)

    @property
    def muon(self) -> "Muon":
        return self


_NO_LIMIT = "null is no such limit"


class NonFinite(Enum):
    """Reaction to a loss or gradient that is not a number, or a loss that has risen too far.

    skip: no update in that step. rollback: some steps back, and on with the text after it.
    """

    stop = "stop"
    skip = "skip"
    rollback = "rollback"


@dataclass
class Train:
    """Length, micro-batches and precision. The first limit that is met ends the run.

    micro_batch_size: the most blocks that a rank computes at once, equally many each time; null:
    all that it has of a batch.
    compile: the layers and the losses, by torch.compile; auto: on a CPU, if that is estimated to
    pay. compile_with: the file of auto's decision that a study's runs share; the study sets it.
    max_rise: nats that a step's hard loss may be above the mean of those before it (the last ten or
    so); null: any number of them.
    rollback_steps: how far back a rollback goes; max_rollbacks: how many there may be.
    profile: leave a trace of the student's steps 8 to 10 and a table of where their time went.
    """

    max_steps: int | None = above(0, II("scale.max_steps"), _NO_LIMIT)
    epochs: float | None = above(0, II("scale.epochs"), _NO_LIMIT)
    max_minutes: float | None = above(0, None, _NO_LIMIT)
    batch_size: int = between(1, LARGEST_BATCH, II("scale.batch_size"))
    micro_batch_size: int | None = at_least(1, II("scale.micro_batch_size"), identity=False)
    precision: Precision = Precision.auto
    compile: Any = bookkeeping(False)  # true, false or auto: no enum's names in YAML
    compile_with: str | None = bookkeeping(None)
    profile: bool = bookkeeping(False)
    non_finite: NonFinite = NonFinite.stop
    max_rise: float | None = added(None, range=Range(0, beyond=True))
    rollback_steps: int = added(100, range=Range(1))
    max_rollbacks: int = bookkeeping(3, range=Range(1))
    checkpoint_every: int = at_least(1, II("scale.checkpoint_every"), identity=False)
    keep_checkpoints: int = at_least(1, 2, identity=False)
    log_every: int = at_least(1, II("scale.log_every"), identity=False)

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the settings together, one line each."""
        limits = ("max_steps", "epochs", "max_minutes")
        if all(getattr(self, name) is None for name in limits):
            first, second, third = (f"{setting}.{name}" for name in limits)
            yield f"{first}, {second} and {third} are all null: set one of them"
        if str(self.compile) not in ("True", "False", "auto"):  # 1 is no true
            yield f"{setting}.compile={self.compile}: it is true, false or auto"
        if self.non_finite is NonFinite.rollback and self.max_minutes is not None:
            yield (
                f"{setting}.non_finite=rollback with {setting}.max_minutes: steps that are taken "
                f"again have no time of their own; limit {setting}.max_steps"
            )

    def num_steps(self, steps_per_epoch: float | None) -> int | None:
        """Return the optimizer steps; None if not limited, or by an epoch of unknown length."""
        limits = [] if self.max_steps is None else [self.max_steps]
        if self.epochs is not None:
            if steps_per_epoch is None:
                return None
            limits.append(max(1, round(self.epochs * steps_per_epoch)))
        return min(limits, default=None)

    def progress(self, steps_per_epoch: float, step: int, elapsed_s: float) -> float:
        """Return the share of the training that is done, in [0, 1], by its nearest limit."""
        shares = [0.0]
        if (num_steps := self.num_steps(steps_per_epoch)) is not None:
            shares.append(step / num_steps)
        if self.max_minutes is not None:
            shares.append(elapsed_s / (60 * self.max_minutes))
        return min(1.0, max(shares))

    def num_parts(self, num_ranks: int) -> int:
        """Return the number of micro-batches of each rank's share; raises as `num_blocks` does."""
        return self.batch_size // num_ranks // self.num_blocks(num_ranks)

    def num_blocks(self, num_ranks: int) -> int:
        """Return the blocks of a micro-batch on each rank: a divisor of its share of the batch.

        Raises `UserError` for a batch that does not divide among the ranks.
        """
        of_rank, rest = divmod(self.batch_size, num_ranks)
        if rest:
            raise UserError(
                f"train.batch_size={self.batch_size} does not divide among {num_ranks} ranks: "
                f"choose a multiple of {num_ranks}"
            )
        most = min(self.micro_batch_size or of_rank, of_rank)
        return next(size for size in range(most, 0, -1) if of_rank % size == 0)


@dataclass
class Parallel:
    """Placement of a run's models on its ranks."""

    def sharding(self, num_ranks: int) -> "Fsdp | None":
        """Return how so many ranks shard a model; None: each of them holds all of it."""
        return None


@dataclass
class Ddp(Parallel):
    """Every rank holds the whole model; gradients are summed while they are computed (DDP)."""


@dataclass
class Fsdp(Parallel):
    """Each rank keeps a share of weights, gradients and optimiser, layer by layer (FSDP2).

    activation_checkpointing: compute a layer's activations twice instead of keeping them.
    cpu_offload: keep the shares in the machine's own memory, where the optimiser works on them.
    shard_teacher: shard the teacher too; else each rank has the whole of it.
    """

    activation_checkpointing: bool = False
    cpu_offload: bool = False
    shard_teacher: bool = False

    def sharding(self, num_ranks: int) -> "Fsdp | None":
        return self if num_ranks > 1 else None
