"""What the loop expects of its parts: it imports no task, teacher, evaluation or tracker.

Imports no torch at the top: the options of a schedule are asked at a `Moment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Numbers = Mapping[str, float]
"""Values by their names: metrics of a step, or what a schedule keeps from step to step."""


@dataclass(frozen=True)
class Moment:
    """The state of a training before a step.

    progress: the share of training that is done, in [0, 1). lr: the learning rate as a share of
    its peak. memory: the schedule's own state, from `Schedule.remember`.
    """

    progress: float
    lr: float = 1.0
    memory: Numbers = field(default_factory=dict)


class LossSum(NamedTuple):
    """A loss summed over the targets of one micro-batch.

    total: scalar with a gradient. sums: detached scalars that are summed over micro-batches and
    divided by the number of targets of the step. facts: the same for all of them, e.g. the loss
    weights.
    """

    total: Tensor
    sums: dict[str, Tensor]
    facts: dict[str, float]


class Loss(Protocol):
    """The function that is minimised: a sum over the targets of one micro-batch.

    aux: trainable modules of the loss itself. They are trained and kept in checkpoints beside the
    model, never in it; they are clipped by a norm of their own, and an attribute ``lr_scale`` of a
    module multiplies its peak rate. Which of their parameters have a gradient is a function of the
    step alone, never of a rank's data: ranks sum the gradients that there are, and would wait for
    one another for ever.
    """

    aux: nn.ModuleDict

    def __call__(self, model: nn.Module, batch: Any, moment: Moment) -> LossSum:
        """Return the loss of a micro-batch at a moment of training."""

    def remember(self, memory: Numbers, metrics: Numbers) -> Numbers:
        """Return the ``memory`` of later moments after a step; checkpoints contain it."""


class Batches(Protocol):
    """``batch(step)`` for any step; see `dwt_cli.tasks.batches.TrainBatches`."""

    @property
    def tokens_per_step(self) -> int: ...

    @property
    def steps_per_epoch(self) -> float: ...

    def num_targets(self, step: int) -> int:
        """Return the number of targets of a step's whole batch, of all ranks."""

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> Any:
        """Return one of the equal, consecutive parts of a step's batch."""


class Observer(Protocol):
    """A listener to a training: its record, the progress display, snapshots of the model.

    One that is made from this class does nothing at what it has no method for.
    """

    def resumed(self, step: int) -> None:
        """Begin, or go on after ``step`` steps: later ones that were reported come again."""
        return None

    def stepped(self, step: int, progress: float, metrics: Numbers) -> None:
        """Take the metrics of step number ``step``, counted from 1."""
        return None

    def evaluated(self, step: int, metrics: Numbers) -> None:
        """Take the held-out metrics after ``step`` steps."""
        return None
