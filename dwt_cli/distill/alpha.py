"""The loss weights over time: how much the soft targets count, and when.

A schedule is a dataclass of its settings and a pure function of a `Moment`. A schedule that reacts
to the training keeps what it must know in the moment's ``memory``, a few numbers that travel in
the checkpoint, so that a resumed run goes on as if nothing had happened.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from omegaconf import II

from dwt_cli.base.options import Range, above, at_least
from dwt_cli.training.protocols import Moment, Numbers


class Weights(NamedTuple):
    """alpha_hard and alpha_soft of eq. 3 (arXiv 2305.18239, section 2)."""

    hard: float
    soft: float


@dataclass
class Schedule(ABC):
    """Base of all schedules.

    hard: the weight of the cross-entropy with the label. soft: that of the divergence from the
    teacher, where it is largest. reacts: whether the weights depend on how the training goes.
    """

    reacts: ClassVar[bool] = False

    hard: float = at_least(0, 1.0)
    soft: float = at_least(0, 4.0)

    @property
    def crossing(self) -> "Crossover | None":
        """The settings by which a step is found, where it is to be; None: nothing is."""
        return None

    def placed(self, num_steps: int | None, until: int | None) -> "Schedule":
        """Return the schedule in a run of so many steps. until: the step that was found for it."""
        return self

    @abstractmethod
    def soft_at(self, moment: Moment) -> float:
        """Return the soft weight at a moment of training."""

    def weights(self, moment: Moment) -> Weights:
        """Return the weights at a moment of training."""
        return Weights(self.hard, self.soft_at(moment))

    def soft_is_over(self, moment: Moment) -> bool:
        """Return whether the soft weight is zero from now on: the teacher may then be released."""
        return self.soft == 0

    def problems(self, setting: str) -> Iterator[str]:
        """Yield what is wrong with the weights together, a line each."""
        ends = (Moment(0.0), Moment(1.0))
        if self.soft_is_over(ends[0]) and not any(self.weights(moment).hard for moment in ends):
            yield (
                f"{setting}.hard={self.hard} and {setting}.soft={self.soft}: nothing would be "
                "learnt; set one of them above 0"
            )

    def remember(self, memory: Numbers, metrics: Numbers) -> Numbers:
        """Return the memory after a step with these metrics: means over its targets, in nats."""
        return memory


def _share_of_run(default: float) -> Any:
    hint = "a schedule longer than the run would never end"
    return field(default=default, metadata={"range": Range(0.0, 1.0, beyond=True, hint=hint)})


@dataclass
class Constant(Schedule):
    """The same weights throughout: Normal 1:1 and Strong 1:4 (section 3.2)."""

    soft: float = at_least(0, 1.0)

    def soft_at(self, moment: Moment) -> float:
        return self.soft


@dataclass
class Ramp(Schedule):
    """The soft weight goes from ``soft`` to ``soft_end`` within the share ``until`` of the run.

    It stays at ``soft_end`` from there on.
    """

    soft_end: float = at_least(0, 1.0)
    until: float = _share_of_run(1.0)

    @abstractmethod
    def way(self, share: float) -> float:
        """Return how much of the way is done after a share of the time, both in [0, 1]."""

    def done(self, moment: Moment) -> float:
        """Return how much of the way is done, in [0, 1]."""
        return 1.0 if moment.progress >= self.until else self.way(moment.progress / self.until)

    def soft_at(self, moment: Moment) -> float:
        return self.soft + (self.soft_end - self.soft) * self.done(moment)

    def soft_is_over(self, moment: Moment) -> bool:
        return self.soft_end == 0 and (self.soft == 0 or moment.progress >= self.until)


@dataclass
class Linear(Ramp):
    """A straight line. The paper's advice (section 3.2, Limitations): start strong, decay (4 -> 1).

    With ``hard_end`` the hard weight moves along: knowledge inheritance (arXiv 2105.13880, eq. 3)
    has 1 - t/T for the teacher and t/T for the label.
    """

    hard_end: float | None = at_least(0, None)

    def way(self, share: float) -> float:
        return share

    def weights(self, moment: Moment) -> Weights:
        hard_end = self.hard if self.hard_end is None else self.hard_end
        hard = self.hard + (hard_end - self.hard) * self.done(moment)
        return Weights(hard, self.soft_at(moment))


@dataclass
class Cosine(Ramp):
    """Half a cosine: level at both ends, steepest in the middle (as in arXiv 1608.03983, eq. 5)."""

    def way(self, share: float) -> float:
        return (1 - math.cos(math.pi * share)) / 2


@dataclass
class Exponential(Ramp):
    """The same factor in every step: soft * (soft_end / soft) ** share."""

    def way(self, share: float) -> float:
        if self.soft == self.soft_end:
            return share
        now = self.soft * (self.soft_end / self.soft) ** share
        return (now - self.soft) / (self.soft_end - self.soft)

    def problems(self, setting: str) -> Iterator[str]:
        yield from super().problems(setting)
        if min(self.soft, self.soft_end) == 0:
            yield (
                f"{setting}.soft={self.soft} and {setting}.soft_end={self.soft_end}: an "
                "exponential never comes from or to 0; choose a small weight, or alpha=linear"
            )


@dataclass
class Step(Schedule):
    """``soft`` for the first share ``until`` of the run, then none (SALT, arXiv 2410.18779)."""

    soft: float = at_least(0, 1.0)
    until: float = _share_of_run(0.2)

    def soft_at(self, moment: Moment) -> float:
        return 0.0 if self.soft_is_over(moment) else self.soft

    def soft_is_over(self, moment: Moment) -> bool:
        return self.soft == 0 or moment.progress >= self.until


@dataclass
class Wsd(Schedule):
    """Warm-up, stable, decay: ``soft`` times the learning rate's share of its peak.

    ArXiv 2410.16215 found soft targets most useful while the learning rate is high.
    """

    def soft_at(self, moment: Moment) -> float:
        return self.soft * moment.lr


@dataclass
class Overtake(Schedule):
    """The soft weight follows the student's lag behind the teacher, and ends with it.

    soft * min(1, lag / full): the lag is the student's cross-entropy with the label minus the
    teacher's, on the same target rows, as a running mean over about ``span`` steps. ``soft`` is
    reached at a lag of ``full`` nats. Once the lag is zero the teacher is released for good, so
    there is no length to choose. Ours; it has no source.
    """

    reacts: ClassVar[bool] = True

    full: float = above(0, 1.0)
    span: float = above(1, 20.0)

    def soft_at(self, moment: Moment) -> float:
        if self.soft_is_over(moment):
            return 0.0
        lag = self._lag(moment.memory) if "lag" in moment.memory else self.full
        return self.soft * min(1.0, lag / self.full)

    def soft_is_over(self, moment: Moment) -> bool:
        return self.soft == 0 or bool(moment.memory.get("overtaken"))

    def remember(self, memory: Numbers, metrics: Numbers) -> Numbers:
        if "teacher_loss" not in metrics:
            return memory
        keep = 1 - 1 / self.span
        lag = metrics["hard_loss"] - metrics["teacher_loss"]
        noted = {
            **memory,
            "lag": keep * memory.get("lag", 0.0) + (1 - keep) * lag,
            "num_noted": memory.get("num_noted", 0.0) + 1,
        }
        return noted | {"overtaken": float(self._lag(noted) <= 0)}

    def _lag(self, memory: Numbers) -> float:
        """Return the running mean, freed of its start at zero."""
        return memory["lag"] / (1 - (1 - 1 / self.span) ** memory["num_noted"])


@dataclass
class Crossover(Schedule):
    """``soft`` until the stand-alone student would reach its teacher; then straight to zero.

    A weak teacher pays until the stand-alone student's loss would be its own plus 0.01 to 0.04
    nats: worked out from the distillation scaling laws of arXiv 2502.08606.

    until: the step; null: it is found (`dwt_cli.recipe.crossover`). margin: nats above the
    teacher's held-out loss. fade: the share of the run in which the weight then goes to zero.
    calibration: the share of the run that the stand-alone student is trained for at most, at a
    constant rate, if its run is not on record. max_steps: the run's.
    """

    until: int | None = at_least(1, None)
    margin: float = at_least(0, 0.02)
    fade: float = _share_of_run(0.05)
    calibration: float = _share_of_run(0.25)
    max_steps: int | None = above(0, II("train.max_steps"), identity=False)

    @property
    def crossing(self) -> "Crossover | None":
        return self if self.until is None and self.soft else None

    def placed(self, num_steps: int | None, until: int | None) -> Schedule:
        """Return it with its step. until: 0: no teacher is asked."""
        step, soft = self.until if until is None else until, 0.0 if until == 0 else self.soft
        return replace(self, max_steps=num_steps, until=step, soft=soft)

    @property
    def _end(self) -> float:
        """The share of the run at which the weight is zero; infinity as long as it is not known."""
        if not (self.until and self.max_steps):
            return math.inf
        return self.until / self.max_steps + self.fade

    def soft_at(self, moment: Moment) -> float:
        if self.soft_is_over(moment):
            return 0.0
        return self.soft * min(1.0, (self._end - moment.progress) / self.fade)

    def soft_is_over(self, moment: Moment) -> bool:
        return self.soft == 0 or moment.progress > self._end - 1e-9  # the sum of two is rounded

    def problems(self, setting: str) -> Iterator[str]:
        yield from super().problems(setting)
        if self.until and self.max_steps and self.until > self.max_steps:
            yield (
                f"{setting}.until={self.until}: the run has train.max_steps={self.max_steps}; "
                "choose a step of it, or alpha=strong, which never lets go"
            )


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
    "step": Step,
    "wsd": Wsd,
    "overtake": Overtake,
    "crossover": Crossover,
}
