"""What may be looked at before a step."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Moment:
    """What a schedule may look at, before a step.

    progress: the share of training that is done, in [0, 1). lr: the learning rate as a share of
    its peak. memory: what the schedule itself has noted (`Schedule.remember`).
    """

    progress: float
    lr: float = 1.0
    memory: Mapping[str, float] = field(default_factory=dict)
