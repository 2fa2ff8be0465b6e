"""What the loop is handed: it imports no task, teacher, evaluation or tracker."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from dwt_cli.alpha import Moment


class LossSum(NamedTuple):
    """A loss summed over the targets of one part of a batch.

    total: scalar with a gradient. sums: detached scalars that are summed over parts and divided
    by the number of targets of the step. facts: the same for every part, e.g. the loss weights.
    """

    total: Tensor
    sums: dict[str, Tensor]
    facts: dict[str, float]


Loss = Callable[[nn.Module, Any, Moment], LossSum]


class Batches(Protocol):
    """``batch(step)`` for any step; see `dwt_cli.corpus.batches.TrainBatches`."""

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
