"""The options of a training: how long, at what rates, shared among ranks how."""

import math
from dataclasses import dataclass
from enum import Enum

from omegaconf import II

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import Precision, bookkeeping


class Falling(Enum):
    """How the learning rate falls to zero: in a straight line, or as half a cosine."""

    linear = "linear"
    cosine = "cosine"


@dataclass
class Optim:
    """AdamW: linear warm-up, a plateau, and a decay to zero, as shares of the run."""

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    warmup: float = 0.05
    decay: float = 0.95
    falling: Falling = Falling.linear
    clip_norm: float = 1.0

    def lr_factor(self, progress: float) -> float:
        """The learning rate at a share of the run, relative to its peak: up, level, down to zero.

        With ``decay = 1 - warmup`` this is the usual linear warm-up and linear (or cosine) decay.
        """
        rising = progress / self.warmup if self.warmup > 0 else 1.0
        left = min(1.0, (1 - progress) / self.decay) if self.decay > 0 else 1.0
        if self.falling is Falling.cosine:
            left = (1 - math.cos(math.pi * left)) / 2
        return max(0.0, min(rising, left))


@dataclass
class Muon(Optim):
    """Muon on the hidden matrices, AdamW with the fields above on everything else."""

    hidden_lr: float = 0.02
    momentum: float = 0.95
    hidden_weight_decay: float = 0.0


class NonFinite(Enum):
    """What a loss or gradient that is no number leads to."""

    stop = "stop"
    skip = "skip"


@dataclass
class Train:
    """How long, in what portions, at what precision. The first limit that is met ends the run.

    compile: by torch.compile, which takes about a minute and pays off in longer runs.
    """

    max_steps: int | None = II("scale.max_steps")
    epochs: float | None = II("scale.epochs")
    max_minutes: float | None = None
    batch_size: int = II("scale.batch_size")
    micro_batch_size: int | None = bookkeeping(None)
    precision: Precision = Precision.auto
    compile: bool = bookkeeping(False)
    non_finite: NonFinite = NonFinite.stop
    checkpoint_every: int = bookkeeping(II("scale.checkpoint_every"))
    keep_checkpoints: int = bookkeeping(2)
    log_every: int = bookkeeping(II("scale.log_every"))

    def num_parts(self, num_ranks: int) -> int:
        """In how many portions each of so many ranks takes its share of a batch.

        Raises `UserError` for a batch that does not divide.
        """
        of_rank, rest = divmod(self.batch_size, num_ranks)
        if rest:
            raise UserError(
                f"train.batch_size={self.batch_size} does not divide among {num_ranks} ranks: "
                f"choose a multiple of {num_ranks}"
            )
        num_parts, rest = divmod(of_rank, self.micro_batch_size or of_rank)
        if rest:
            raise UserError(
                f"train.micro_batch_size={self.micro_batch_size} does not divide the {of_rank} "
                f"sequences of each of {num_ranks} ranks: choose a divisor, or null for all"
            )
        return num_parts


@dataclass
class Parallel:
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
