"""Final losses of short runs -> those of a long one, and when a difference changes its sign.

An arm's law is ``rest + gap_arm * (steps + start_arm) ** -power``: rest and power are shared by all
arms, for a teacher that is let go of changes neither; an arm has a head start in steps, and a
slope of its own (after arXiv 2001.08361, 2502.08606; that arms share the rest is our assumption).
Three lengths do not tell rest, power, slope and start apart, so weak priors stand beside them: they
pull towards a common slope and no head start, and what is noise is forecast to be no difference.

Shapes: A arms, the first is the one that the others are compared with; L lengths; S seeds.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

CONFIDENCE = 0.9
_FARTHEST = 64.0
"""Times the longest run's length: what is forecast beyond is not to be trusted. A judgement."""

_NOISE = 0.003  # of the logarithm of a mean loss
_POWER = (0.4, 0.5)  # what language models' curves have; deviation of its logarithm
_GAP, _START = 0.2, 0.5  # deviations: of the logarithm of a slope's ratio; in longest runs
_REST = 0.6  # of the lowest loss, where a fit begins
_NUM_DRAWS = 100
_LATEST = 100.0  # times the budget: a later change of sign is none


@dataclass(frozen=True)
class Law:
    """Losses of all arms at any length.

    unit: steps; the gaps are those at this length without a head start. starts: in steps.
    """

    unit: float
    rest: float
    power: float
    gaps: tuple[float, ...]
    starts: tuple[float, ...]

    def loss(self, arm: int, steps: float) -> float:
        """Return an arm's loss after so many steps, in nats."""
        ratio = max((steps + self.starts[arm]) / self.unit, 1e-9)  # a start may be below 0
        return float(self.rest + self.gaps[arm] * ratio**-self.power)

    def steps(self, arm: int, loss: float) -> float:
        """Return the steps after which an arm has a loss; infinity for one that it never has."""
        if loss <= self.rest:
            return math.inf
        ratio = ((loss - self.rest) / self.gaps[arm]) ** (-1 / self.power)
        return float(ratio * self.unit - self.starts[arm])


def fitted(lengths_L: Sequence[float], losses_AL: Array, begin: Law | None = None) -> Law:
    """Return the law of mean losses, by Huber's loss over their logarithms and the priors.

    A NaN is left out. begin: where to begin, for a fit that is near another.
    """
    lengths, logs = np.array(lengths_L, float), np.log(losses_AL)
    unit, lowest, num_arms = lengths.max(), np.nanmin(losses_AL), len(losses_AL)
    known, least = ~np.isnan(logs), -0.9 * lengths.min() / unit

    def residuals(theta: Array) -> Array:
        share, log_power, *rest = theta
        log_gaps_A = np.array(rest[:num_arms])
        starts_A = np.array([0.0, *rest[num_arms:]])
        ratios_AL = lengths / unit + starts_A[:, None]
        gaps_AL = np.exp(log_gaps_A[:, None] - math.exp(log_power) * np.log(ratios_AL))
        missed = (np.log(share * lowest + gaps_AL) - logs)[known] / _NOISE
        expected = (log_power - math.log(_POWER[0])) / _POWER[1]
        slopes, starts = (log_gaps_A[1:] - log_gaps_A[0]) / _GAP, starts_A[1:] / _START
        return np.concatenate([missed, [expected], slopes, starts])

    if begin:
        gaps, starts = np.log(begin.gaps), np.array(begin.starts[1:]) / unit
        share = min(begin.rest / lowest, 0.99)
        first = np.array([share, math.log(begin.power), *gaps, *np.maximum(starts, 0.99 * least)])
    else:
        gap = math.log(1 - _REST) + math.log(lowest)
        ends = [_REST, math.log(_POWER[0]), *[gap] * num_arms, *[0.0] * (num_arms - 1)]
        first = np.array(ends)
    low = [0.0, -4.0, *[-30.0] * num_arms, *[least] * (num_arms - 1)]
    high = [0.999, 2.0, *[30.0] * num_arms, *[20.0] * (num_arms - 1)]
    found = optimize.least_squares(residuals, first, bounds=(low, high), loss="huber", x_scale=0.1)
    share, log_power, *rest = map(float, found.x)
    heights = tuple(map(math.exp, rest[:num_arms]))
    begins = (0.0, *(float(each * unit) for each in rest[num_arms:]))
    return Law(float(unit), float(share * lowest), math.exp(log_power), heights, begins)


@dataclass(frozen=True)
class Interval:
    """A forecast and the ends of its 90% interval; NaN where one seed says nothing of chance."""

    value: float
    low: float
    high: float


class Laws(Protocol):
    """What says what any arm comes to."""

    def loss(self, arm: int, steps: float) -> float: ...
    def steps(self, arm: int, loss: float) -> float: ...


class Forecaster(ABC):
    """What an advice follows from.

    law: of all arms. lengths, losses (A, L, S): what was measured for it. farthest: how many times
    its longest run's length it is to be trusted for.
    """

    law: Laws
    lengths: Sequence[float]
    losses: Array
    farthest = _FARTHEST

    @property
    def beyond(self) -> str:
        """Why what is asked about is none of what it knows, whatever its length; empty: it is."""
        return ""

    @property
    @abstractmethod
    def longest(self) -> float:
        """The steps of the longest run that it knows."""

    @property
    def begins(self) -> float:
        """The steps from which on a change of sign is looked for."""
        return self.longest

    @abstractmethod
    def interval(
        self, of: Callable[[Laws], float], arm: int, against: int | None = None
    ) -> Interval:
        """Return what follows from the law about an arm, or about it and another one."""

    @abstractmethod
    def of_one_run(self, mean: Interval, arm: int, against: int | None = None) -> Interval:
        """Return the interval of one run's own loss, or difference, around that of the mean."""

    def horizon(self, difference: Callable[[Laws, float], float], budget: float) -> float | None:
        """Return the first length from `begins` on at which a difference changes its sign.

        difference: of the law at a length. None: it keeps its sign up to a hundred budgets.
        """
        places = np.geomspace(self.begins, max(budget, self.begins) * _LATEST, 400)
        values = [difference(self.law, place) for place in places]
        for k in range(1, len(places)):
            if values[k - 1] * values[k] < 0:
                return float(
                    optimize.brentq(lambda n: difference(self.law, n), places[k - 1], places[k])
                )
        return None


class Ladder(Forecaster):
    """A ladder's losses, their law, and laws of what they might have been.

    losses_ALS: final held-out losses, in nats; arms of one seed and length are paired.
    """

    def __init__(self, lengths_L: Sequence[float], losses_ALS: Array) -> None:
        self.lengths, self.losses = list(lengths_L), losses_ALS
        means_AL = losses_ALS.mean(-1)
        self.law = fitted(lengths_L, means_AL)
        self.drawn = [fitted(lengths_L, each, self.law) for each in drawn(losses_ALS)]
        self.without = [fitted(lengths_L, each, self.law) for each in one_left_out(means_AL)]

    @property
    def longest(self) -> float:
        return max(self.lengths)

    def interval(
        self, of: Callable[[Laws], float], arm: int, against: int | None = None
    ) -> Interval:
        """Return what follows from the law, with the wider one of two intervals.

        One is the bootstrap's over seeds, widened as Student's t is for so few; the other reaches
        as far as the answer moves when a length is left out.
        """
        value, (_, num_lengths, num_seeds) = of(self.law), self.losses.shape
        if num_seeds < 2:
            return Interval(value, math.nan, math.nan)
        reach = max(abs(of(law) - value) for law in self.without)
        wider = small_sample(num_seeds, num_lengths)
        ends = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
        low, high = np.quantile([of(law) - value for law in self.drawn], ends) * wider
        return Interval(value, value + min(low, -reach), value + max(high, reach))

    def of_one_run(self, mean: Interval, arm: int, against: int | None = None) -> Interval:
        """Return the interval of one run's own loss around that of the mean, as Student's t has it.

        against: another arm's run of the same seed; it is then of their difference. Seeds are taken
        to spread as they do in the ladder, whatever the length.
        """
        losses_LS = self.losses[arm] - (0.0 if against is None else self.losses[against])
        num_lengths, num_seeds = losses_LS.shape
        if num_seeds < 2:
            return mean
        freedom = (num_seeds - 1) * num_lengths
        spread = math.sqrt(((losses_LS - losses_LS.mean(-1, keepdims=True)) ** 2).sum() / freedom)
        own = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * spread
        below, above = mean.value - mean.low, mean.high - mean.value
        ends = mean.value - math.hypot(below, own), mean.value + math.hypot(above, own)
        return Interval(mean.value, *ends)


def small_sample(num_seeds: int, num_lengths: int) -> float:
    """Return by how much an interval of resampled seeds is too narrow.

    The bootstrap's variance is short by (S - 1) / S, and the quantile is Student's with the degrees
    of freedom that all lengths have together.
    """
    freedom, end = (num_seeds - 1) * num_lengths, (1 + CONFIDENCE) / 2
    ratio = stats.t.ppf(end, freedom) / stats.norm.ppf(end)
    return float(ratio * math.sqrt(num_seeds / (num_seeds - 1)))


def drawn(losses_ALS: Array) -> Iterator[Array]:
    """Yield mean losses of resampled seeds, by length; all arms have the same, and stay paired."""
    _, num_lengths, num_seeds = losses_ALS.shape
    chance = np.random.default_rng(0)
    for _ in range(_NUM_DRAWS if num_seeds > 1 else 0):
        chosen_LS = chance.integers(num_seeds, size=(num_lengths, num_seeds))
        yield np.take_along_axis(losses_ALS, chosen_LS[None], axis=2).mean(-1)


def one_left_out(means_AL: Array) -> Iterator[Array]:
    """Yield mean losses without one of the lengths, which are NaN."""
    for place in range(means_AL.shape[1]):
        left = means_AL.copy()
        left[:, place] = math.nan
        yield left
