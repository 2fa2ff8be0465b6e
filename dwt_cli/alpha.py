"""The loss weights over time: how strongly the student listens to its teacher, and when.

A schedule is a dataclass of its settings with one method, ``weights``. It is a pure function of a
`Moment`, so that a resumed run needs nothing but the moment to go on.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Weights(NamedTuple):
    """alpha_hard and alpha_soft of eq. 3 (arXiv 2305.18239, section 2)."""

    hard: float
    soft: float


@dataclass(frozen=True)
class Moment:
    """What a schedule may look at.

    progress: the share of training that is done before this step, in [0, 1).
    """

    progress: float


@dataclass
class Schedule:
    """Base of all schedules. ``hard`` is the weight of the cross-entropy with the label."""

    hard: float = 1.0

    def weights(self, moment: Moment) -> Weights:
        """The weights at a moment of training."""
        raise NotImplementedError

    def soft_is_over(self, moment: Moment) -> bool:
        """Whether the soft weight is zero now and for good: the teacher may then be released."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """What is wrong with the settings, one line each."""
        return [
            f"alpha.{name}={value}: a loss weight is not negative"
            for name, value in vars(self).items()
            if value < 0
        ]


@dataclass
class Constant(Schedule):
    """The same weights throughout: Normal 1:1 and Strong 1:4 (section 3.2)."""

    soft: float = 1.0

    def weights(self, moment: Moment) -> Weights:
        return Weights(self.hard, self.soft)

    def soft_is_over(self, moment: Moment) -> bool:
        return self.soft == 0


@dataclass
class Linear(Schedule):
    """The soft weight goes from ``soft`` to ``soft_end`` in a straight line over the run.

    The paper's advice in sections 3.2 and Limitations: start strong, decay (4 -> 1).
    """

    soft: float = 4.0
    soft_end: float = 1.0

    def weights(self, moment: Moment) -> Weights:
        return Weights(self.hard, self.soft + (self.soft_end - self.soft) * moment.progress)

    def soft_is_over(self, moment: Moment) -> bool:
        return self.soft == 0 and self.soft_end == 0


SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "linear": Linear}
