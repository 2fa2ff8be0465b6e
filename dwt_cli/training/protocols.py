"""What the loop is handed: it imports no task, teacher, evaluation or tracker."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from dwt_cli.training.moment import Moment


class LossSum(NamedTuple):
    """A loss summed over the targets of one part of a batch.

    total: scalar with a gradient. sums: detached scalars that are summed over parts and divided
    by the number of targets of the step. facts: the same for every part, e.g. the loss weights.
    """

    total: Tensor
    sums: dict[str, Tensor]
    facts: dict[str, float]


class Loss(Protocol):
    """What is minimised: a sum over the targets of one part of a batch.

    aux: trainable parts of the loss itself; trained and kept beside the model, never in it.
    """

    aux: nn.ModuleDict

    def __call__(self, model: nn.Module, batch: Any, moment: Moment) -> LossSum: ...

    def remember(
        self, memory: Mapping[str, float], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        """What later moments will know of this step; it travels in the checkpoint."""


class Batches(Protocol):
    """``batch(step)`` for any step; see `dwt_cli.tasks.batches.TrainBatches`."""

    batch_size: int
    num_targets: int

    @property
    def tokens_per_step(self) -> int: ...

    @property
    def steps_per_epoch(self) -> float: ...

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> Any: ...


class Observer(Protocol):
    """Who watches a training: the record, the progress display, a dashboard."""

    def resumed(self, step: int) -> None:
        """Training goes on after ``step`` steps; what was seen beyond it will be seen again."""

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        """Step number ``step`` (counted from 1) is done."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """The held-out metrics after ``step`` steps."""
