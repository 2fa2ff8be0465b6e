"""One law for runs of any size, length and teacher, and until when a teacher pays.

Every form (`dwt_cli.study.forms`) is fitted to the same runs, by Huber's loss on the logarithm of
the held-out loss. The law is the form with the fewest numbers that forecasts lengths it was not
fitted to as well as the best one does, within a standard error. Text that is read again counts
less (arXiv 2305.16264).

Shapes: R runs.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize

from dwt_cli.base.errors import UserError
from dwt_cli.study.forms import (
    ALONE,
    HEAD_START,
    LISTENING,
    Alone,
    Array,
    Listening,
    Numbers,
    Range,
)
from dwt_cli.study.results import Results

GIVEN = ("parameters", "tokens", "new_tokens", "taught", "weight", "grown", "teacher", "ratio")

_ALIKE = 1.3  # lengths that differ by less are left out together
_FEWEST = 3  # lengths that are not alike
_DELTA = 1e-3  # of Huber's loss over logarithms, as in 2203.15556
_READINGS = 15.4  # R* of 2305.16264: more readings of a text are worth at most so many
_LATEST = 1000.0  # times the longest run: a later horizon is none


def points(*studies: Results) -> pd.DataFrame:
    """Return the runs of studies that a law is about, each once.

    Columns: parameters: those without the table of tokens; tokens; text: tokens that there are;
    new_tokens: those that are read for the first time; taught: the share of the run; weight: the
    soft loss's share of the two weights while it is taught, on average; grown: 1 of a run that
    begins with the teacher's weights, else 0; teacher: its held-out loss, NaN where it does
    neither; ratio: the teacher's parameters over the student's, at most 1, tables included, NaN
    where they are not known; loss: the run's own, at its end; seed; steps; length: of the study;
    arm: of all studies but the first with their names; cost: its FLOPs, with the teacher's passes,
    over the student's own; began: when, in UTC, or null.

    attrs: text, masks: of the first study, and so of all; left_out: how many runs, by the reason.
    """
    named = [
        results.runs.assign(arm=f"{results.study.name}: " + results.runs.arm.astype(str))
        for results in studies[1:]
    ]
    every = pd.concat([studies[0].runs, *named], ignore_index=True)
    every = every[every.identity.isna() | ~every.duplicated("identity")]
    today = dict(zip(every.text_formerly, every.text, strict=True))
    every["text"] = every.text.map(lambda text: today.get(text, text))
    known = {name: every[name].iloc[0] if len(every) else None for name in ("text", "masks")}
    has_teacher = ~(every.taught == 0) | every.is_grown.astype(bool)
    left_out, good = {}, pd.Series(True, every.index)
    for why, fails in {
        "on another text": every.text != known["text"],
        "with other held-out masks": every.masks != known["masks"],
        "of a size that is not known": every.layer_parameters.isna(),
        "taught for a share that is not known": every.taught.isna(),
        "taught with weights that are not known": (every.taught > 0) & ~every.weights.astype(bool),
        "grown from a teacher of a size that is not known": every.is_grown.astype(bool)
        & every.teacher_parameters.isna(),
        "by a teacher whose loss is not known": has_teacher & every.teacher_heldout_loss.isna(),
    }.items():
        if num := int((good & fails).sum()):
            left_out[why] = num
        good &= ~fails
    every, has_teacher = every[good], has_teacher[good]
    text = every.tokens / every.epochs
    found = {
        "parameters": every.layer_parameters,
        "tokens": every.tokens,
        "text": text.fillna(math.inf),
        "new_tokens": np.fmin(every.tokens, text),
        "taught": every.taught,
        "weight": [soft_share(each[1:] for each in of or ()) for of in every.weights],
        "grown": every.is_grown.astype(float),
        "teacher": every.teacher_heldout_loss.where(has_teacher),
        "ratio": (every.teacher_parameters / every.parameters).clip(upper=1.0).where(has_teacher),
        "loss": every.heldout_loss,
        "seed": every.seed,
        "steps": every.steps.astype(int),
        "length": every.length.astype(int),
        "arm": every.arm,
        "cost": every.flops_forward / every.flops_student,
        "began": every.began,
    }
    runs = pd.DataFrame(found).reset_index(drop=True)
    runs.attrs |= {**known, "left_out": left_out}
    return runs


def soft_share(pairs: Iterable[Sequence[float]]) -> float:
    """Return the soft loss's share of pairs (hard, soft) of weights, where it has one; or 0."""
    shares = [soft / (hard + soft) for hard, soft in pairs if soft > 0]
    return sum(shares) / len(shares) if shares else 0.0


def alike(runs: pd.DataFrame) -> pd.Series:
    """Return of each run the fewest tokens of the runs that are as long as it, or nearly so."""
    first, named = 0.0, {}
    for tokens in sorted(runs.tokens.unique()):
        first = first if tokens < first * _ALIKE else tokens
        named[tokens] = first
    return runs.tokens.map(named)


@dataclass(frozen=True)
class Teacher:
    """A teacher of a student. loss: held-out, in nats. weight, ratio: as in `points`."""

    loss: float
    weight: float
    ratio: float = 1.0


@dataclass(frozen=True)
class Law:
    """A form with its numbers. size, tokens: their units, the greatest on record."""

    alone: Alone
    listening: Listening
    numbers: Numbers
    size: float
    tokens: float

    def losses(self, runs: pd.DataFrame) -> Array:
        """Return the losses (R,) that runs come to, of which it takes the columns `GIVEN`."""
        return self.of(_given(runs))

    def of(self, given: Sequence[Array]) -> Array:
        """Return the losses (R,) of the columns `GIVEN`, each (R,).

        A teacher has as much less to teach a grown student as that begins ahead (`HEAD_START`).
        """
        size, tokens, new_tokens, taught, weight, grown, teacher, ratio = given
        size, worth = size / self.size, _worth(tokens, new_tokens) / self.tokens
        has_teacher = taught + grown > 0
        level = np.where(has_teacher, self.alone.tokens(self.numbers, size, teacher), 0.0)
        start = np.where(grown > 0, ratio ** self.numbers.get("q", 0.0) * level, 0.0)
        left = np.maximum(level - np.nan_to_num(start), 0.0)
        read = taught * worth, (1 - taught) * worth
        counted = self.listening.tokens(self.numbers, *read, left, weight)
        return self.alone.loss(self.numbers, size, start + np.maximum(counted, 0.01 * worth))

    def level(self, size: float, loss: float) -> float:
        """Return the tokens after which a student alone has a loss; or infinity."""
        found = self.alone.tokens(self.numbers, np.array([size / self.size]), np.array([loss]))
        return float(found[0] * self.tokens)

    def heard(self, size: float, teacher: Teacher) -> float:
        """Return the tokens for which listening is best; infinity: the more, the better."""
        left = self._left(size, teacher, grown=False)
        taught_F = left * np.append(0.0, np.geomspace(1e-3, 10.0, 2000))
        weight_F = np.full_like(taught_F, teacher.weight)
        level_F = np.full_like(taught_F, left)
        counted = self.listening.tokens(self.numbers, taught_F, -taught_F, level_F, weight_F)
        best = int(counted.argmax())
        is_endless = best == len(taught_F) - 1 or math.isinf(self.level(size, teacher.loss))
        return math.inf if best and is_endless else float(taught_F[best])

    def caught_up(self, size: float, teacher: Teacher, grown: bool = False) -> float:
        """Return the tokens after which a taught student is as good as its teacher; or infinity."""
        if math.isinf(self.level(size, teacher.loss)):
            return math.inf
        return self._left(size, teacher, grown) / self.numbers.get("k", 1.0) ** teacher.weight

    def begun(self, size: float, teacher: Teacher) -> float:
        """Return the tokens that a student alone needs to where a grown one begins; or infinity."""
        return float(teacher.ratio ** self.numbers.get("q", 0.0) * self.level(size, teacher.loss))

    def _left(self, size: float, teacher: Teacher, grown: bool) -> float:
        """Return the tokens that the student alone is behind its teacher, as it begins."""
        ahead = teacher.ratio ** self.numbers.get("q", 0.0) if grown else 0.0
        level = min(self.level(size, teacher.loss), _LATEST * self.tokens)
        return max(0.0, 1 - ahead) * level

    def saved(self, size: float, teacher: Teacher) -> float:
        """Return the tokens that a teacher saves at most; infinity: the longer a run, the more."""
        taught, level = self.heard(size, teacher), self.level(size, teacher.loss)
        if math.isinf(taught) or not taught:
            return taught
        taught_1, level_1 = np.array([taught]) / self.tokens, np.array([level]) / self.tokens
        weight_1 = np.array([teacher.weight])
        found = self.listening.tokens(self.numbers, taught_1, -taught_1, level_1, weight_1)
        return float(found[0] * self.tokens)

    def until(self, size: float, teacher: Teacher, cost: float = 1.0) -> float:
        """Return the tokens from which on a teacher no longer pays that is always listened to.

        cost: of a taught token, in tokens alone. To one and a half per cent; infinity: it pays up
        to a thousand times the longest run; 0: it never does; NaN: the cost is not known.
        """
        if math.isnan(cost):
            return math.nan
        places = np.geomspace(1e-3 * self.tokens, _LATEST * self.tokens, 1000)
        read = np.concatenate([places, places * cost])
        is_taught = np.repeat([1.0, 0.0], len(places))
        both = {"parameters": size, "tokens": read, "new_tokens": read, "taught": is_taught}
        of = {"weight": teacher.weight, "grown": 0.0, "teacher": teacher.loss, "ratio": 1.0}
        taught, alone = np.split(self.losses(pd.DataFrame(both | of)), 2)
        pays = np.flatnonzero(alone > taught)
        if not len(pays):
            return 0.0
        return math.inf if pays[-1] == len(places) - 1 else float(places[pays[-1]])


def readings(worth: float, text: float) -> float:
    """Return how many tokens of a text are read until they are worth so many; or infinity."""
    again = worth / text - 1
    if again <= 0:
        return worth
    return (
        text * (1 - _READINGS * math.log1p(-again / _READINGS)) if again < _READINGS else math.inf
    )


def _given(runs: pd.DataFrame) -> list[Array]:
    return [runs[name].to_numpy(float) for name in GIVEN]


def _worth(tokens: Array, new_tokens: Array) -> Array:
    """Return how many tokens that are read once do the same (2305.16264, equation 5).

    `readings` is its inverse.
    """
    again = (tokens - new_tokens) / new_tokens
    worth: Array = new_tokens * (1 - _READINGS * np.expm1(-again / _READINGS))
    return worth


def fitted(
    alone: Alone,
    listening: Listening,
    runs: pd.DataFrame,
    like: Law | None = None,
    anew: bool = False,
) -> Law:
    """Return the law of a form.

    like: one of this form, whose units it has and near which it is looked for. anew: it is looked
    for everywhere, nevertheless: near a law of more runs it would know what they are.
    """
    ranges = {**alone.ranges, **listening.ranges}
    if "q" in like.numbers if like else (runs.grown > 0).any():
        ranges["q"] = HEAD_START
    logs, lowest = np.log(runs.loss.to_numpy(float)), float(runs.loss.min())
    given = _given(runs)
    size, tokens = float(given[0].max()), float(_worth(given[1], given[2]).max())
    size, tokens = (like.size, like.tokens) if like else (size, tokens)
    near = like.numbers if like and not anew else None
    unit = np.array([lowest if name == "E" else 1.0 for name in ranges])  # nats of a share
    is_log = np.array([low > 0 for low, _, _ in ranges.values()])

    def scaled(values: Sequence[float]) -> Array:
        each = np.array(values) / unit
        return np.where(is_log, np.log(np.where(is_log, each, 1.0)), each)

    def law(theta: Array) -> Law:
        values = np.where(is_log, np.exp(np.where(is_log, theta, 0.0)), theta) * unit
        return Law(
            alone, listening, dict(zip(ranges, map(float, values), strict=True)), size, tokens
        )

    def missed(theta: Array) -> Array:
        found: Array = (np.log(law(theta).of(given)) - logs) / _DELTA
        return found

    low, high = (scaled([each[k] for each in ranges.values()] * unit) for k in (0, 2))
    room, costs = 1e-6 * (high - low), []
    for start in [near] if near else _starts(ranges, lowest):
        theta = np.clip(scaled([start[name] for name in ranges]), low + room, high - room)
        for scale in (1.0,) if near else (100.0, 1.0):  # far off, Huber's loss is flat
            fit = optimize.least_squares(
                missed, theta, bounds=(low, high), loss="huber", f_scale=scale, x_scale=0.1
            )
            theta = fit.x
        costs.append((fit.cost, tuple(theta)))
    return law(np.array(min(costs)[1]))


def _starts(ranges: Mapping[str, Range], lowest: float) -> Iterator[Numbers]:
    """Yield where fits begin: several exponents, and several shares that remain."""
    first = {name: begin * (lowest if name == "E" else 1) for name, (_, begin, _) in ranges.items()}
    height = {name: lowest / 2 for name in first if name in ("A", "B")}
    for power, rest in itertools.product((0.15, 0.5), (0.2, 0.7)):
        own = {"a": power, "b": power, "E": rest * lowest}
        yield first | height | {name: value for name, value in own.items() if name in first}


@dataclass(frozen=True)
class Choice:
    """A form that is fitted, and how it forecasts lengths that it was not fitted to.

    residuals: of each run (R,), the logarithm of its loss minus that of the forecast. error: the
    mean of their squares over cells of an arm and a length; within: its standard error.
    """

    law: Law
    residuals: Array
    error: float
    within: float


def choices(runs: pd.DataFrame) -> list[Choice]:
    """Return every form, fitted, and tried on each length in turn, which is left out of the fit.

    A form is left out that has nearly as many numbers as there are cells; one with E where a fit
    would be left with two lengths, which do not tell it from a slower fall; one of sizes where
    there are fewer than two, or three with E; and one of teachers where there is none.
    Raises `UserError` where there are too few runs.
    """
    lengths, cells = alike(runs), runs.groupby(["arm", "steps"]).ngroup()
    if (num := lengths.nunique()) < _FEWEST:
        raise UserError(
            f"a law takes runs of {_FEWEST} lengths that are a third apart, and there are {num}: "
            f"train others, or name other studies of the same text{_without(runs)}"
        )
    is_taught, num_sizes = (runs.taught > 0).any(), runs.parameters.nunique()
    found = []
    for alone, listening in itertools.product(ALONE, LISTENING):
        rest = "E" in alone.ranges
        num_numbers = len(alone.ranges) + len(listening.ranges) + int((runs.grown > 0).any())
        if num_numbers + 1 >= cells.nunique() or (listening.ranges and not is_taught):
            continue
        if ("a" in alone.ranges and num_sizes < 2 + rest) or num < _FEWEST + rest:
            continue
        law, residuals = fitted(alone, listening, runs), pd.Series(math.nan, runs.index)
        for length in lengths.unique():
            out = runs[lengths == length]
            without = fitted(alone, listening, runs[lengths != length], law, anew=True)
            residuals[out.index] = np.log(out.loss / without.losses(out))
        squares = (residuals**2).groupby(cells).mean()
        error, within = float(squares.mean()), float(squares.sem())
        found.append(Choice(law, residuals.to_numpy(), error, within))
    if not found:
        raise UserError(
            f"a law takes more than {cells.nunique()} cells of an arm and a length: train others, "
            f"or name other studies of the same text{_without(runs)}"
        )
    return found


def _without(runs: pd.DataFrame) -> str:
    """Return what was left out, as the end of a sentence; empty if nothing was."""
    why = runs.attrs.get("left_out", {})
    return "; left out: " + ", ".join(f"{num} {each}" for each, num in why.items()) if why else ""


def simplest(found: Sequence[Choice]) -> Choice:
    """Return the form with the fewest numbers within a standard error of the best."""
    best = min(found, key=lambda each: each.error)
    good = [each for each in found if each.error <= best.error + best.within]
    return min(good, key=lambda each: (len(each.law.numbers), each.error))
