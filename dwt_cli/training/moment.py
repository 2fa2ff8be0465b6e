"""The state of a training before a step, from which schedules take the loss weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Moment:
    """The state of a training before a step.

    progress: the share of training that is done, in [0, 1). lr: the learning rate as a share of
    its peak. memory: the schedule's own state, from `Schedule.remember`.
    """

    progress: float
    lr: float = 1.0
    memory: Mapping[str, float] = field(default_factory=dict)
