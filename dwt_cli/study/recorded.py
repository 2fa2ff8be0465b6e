"""A record's law as a forecaster: what arms come to that were never run.

An arm is what a probe of a few steps knows of it: how large its student is, how good its teacher,
what a step takes. The rest is the law's. Intervals are Student's t of laws of seeds drawn anew and
of how far off the law is in lengths that it had not seen: of a difference, in pairs.

Shapes: A arms, the first is the one that the others are compared with.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import pandas as pd
from scipy import optimize

from dwt_cli.base.errors import UserError
from dwt_cli.study.advice import GROWN, TAUGHT, Advice, Budget, Cost, forecasts
from dwt_cli.study.forecast import Forecaster, Interval, Laws
from dwt_cli.study.law import Law, Teacher, alike, readings
from dwt_cli.study.outlook import Outlook, quantile, stand_alone
from dwt_cli.study.results import Results

_FARTHEST = 10.0  # times the record's longest run: a judgement, too
_NEAR = 2.0  # times the sizes on record, or shorter than its runs
_NEAR_LOSS = 0.3  # nats beside its teachers' losses


class Ends(Enum):
    """Where a teacher is let go of: at a place that its schedule has, if at all, or as good."""

    planned = "after a share of the run, or never"
    overtaken = "where the taught student is as good as it"
    crossed = "where the student alone would be"


@dataclass(frozen=True)
class Listening:
    """When a teacher is listened to, and how strongly.

    weight: the soft loss's share of the two weights meanwhile, on average. share: of a run of so
    many steps, where that is planned.
    """

    ends: Ends
    weight: float
    share: Callable[[float], float] = lambda steps: 1.0


@dataclass(frozen=True)
class Arm:
    """What is known of an arm before it is run.

    parameters: those without the table of tokens. tokens: of a step. text: those that there are.
    own, passes: FLOPs of a step of the student, and of the teacher's.
    """

    parameters: float
    tokens: float
    text: float
    teacher: Teacher
    own: float
    passes: float
    listening: Listening
    is_taught: bool = False
    is_grown: bool = False

    def taught(self, law: Law, steps: float) -> float:
        """Return how many of so many steps are taught."""
        if not self.is_taught:
            return 0.0
        match self.listening.ends:
            case Ends.planned:
                return self.listening.share(steps) * steps
            case Ends.overtaken:
                tokens = law.caught_up(self.parameters, self.teacher, self.is_grown)
            case Ends.crossed:
                tokens = law.level(self.parameters, self.teacher.loss)
        return min(steps, readings(tokens, self.text) / self.tokens)

    def cost(self, law: Law) -> Cost:
        """Return what runs take."""
        return Cost(self.own, lambda steps: self.passes * self.taught(law, steps))


@dataclass(frozen=True)
class ArmLaws:
    """What each arm comes to, by one law."""

    law: Law
    arms: Sequence[Arm]

    def loss(self, arm: int, steps: float) -> float:
        of = self.arms[arm]
        read, share = of.tokens * steps, of.taught(self.law, steps) / steps
        run = (of.parameters, read, min(read, of.text), share)
        given = (*run, of.teacher.weight, float(of.is_grown), of.teacher.loss, of.teacher.ratio)
        return float(self.law.of([np.array([each]) for each in given])[0])

    def steps(self, arm: int, loss: float) -> float:
        places = np.geomspace(1.0, 1e9, 400)
        below = [k for k, place in enumerate(places) if self.loss(arm, place) <= loss]
        if not below:
            return math.inf
        if not (k := below[0]):
            return 1.0
        return float(optimize.brentq(lambda n: self.loss(arm, n) - loss, places[k - 1], places[k]))


class Recorded(Forecaster):
    """Arms, by the law of a record. steps: of the student alone with the whole budget."""

    farthest = _FARTHEST

    def __init__(self, outlook: Outlook, arms: Sequence[Arm], steps: float) -> None:
        self.outlook, self.arms, self.num_steps = outlook, arms, steps
        self.law = ArmLaws(outlook.law, arms)
        self.lengths, self.losses = [], np.zeros((len(arms), 0, 1))  # none was measured

    @property
    def longest(self) -> float:
        return self.outlook.law.tokens / self.arms[0].tokens

    @property
    def begins(self) -> float:
        return float(self.outlook.runs.tokens.min() / self.arms[0].tokens)

    @property
    def beyond(self) -> str:
        of, runs = self.arms[0], self.outlook.runs
        sizes, losses = runs.parameters, runs.teacher.dropna()
        if self.num_steps < self.begins / _NEAR:
            return (
                f"its runs begin at {self.begins:,.0f} steps, and these are {self.num_steps:,.0f}"
            )
        if not sizes.min() / _NEAR <= of.parameters <= sizes.max() * _NEAR:
            return (
                f"its students have {sizes.min():,.0f} to {sizes.max():,.0f} parameters in their "
                f"layers, and this one {of.parameters:,.0f}"
            )
        if losses.empty:
            return "its students have no teacher"
        if not losses.min() - _NEAR_LOSS <= of.teacher.loss <= losses.max() + _NEAR_LOSS:
            ends = f"{losses.min():.2f} to {losses.max():.2f}"
            return f"its teachers' losses are {ends}, and this one's is {of.teacher.loss:.2f}"
        return ""

    def interval(
        self, of: Callable[[Laws], float], arm: int, against: int | None = None
    ) -> Interval:
        value = of(self.law)
        moved = [of(ArmLaws(law, self.arms)) - value for law in self.outlook.drawn]
        residuals = self._residuals(arm, against)
        missed = residuals.groupby(["parameters", "arm", "steps"]).nats.mean()
        if not moved or (num_lengths := residuals.seen.nunique()) < 2:
            return Interval(value, math.nan, math.nan)
        farther = float(self.outlook.farther(self.num_steps * self.arms[0].tokens))
        variance = np.mean(np.square(moved)) + (missed**2).mean() * farther**2
        reach = quantile(num_lengths) * math.sqrt(variance)
        return Interval(value, value - reach, value + reach)

    def of_one_run(self, mean: Interval, arm: int, against: int | None = None) -> Interval:
        residuals = self._residuals(arm, against)
        chance = residuals.groupby(["parameters", "arm", "steps"]).nats.var().mean()
        if math.isnan(mean.low) or math.isnan(chance):
            return mean
        reach = quantile(residuals.seen.nunique()) * math.sqrt(chance)
        reach = math.hypot(mean.high - mean.value, reach)
        return Interval(mean.value, mean.value - reach, mean.value + reach)

    def _residuals(self, arm: int, against: int | None) -> pd.DataFrame:
        """Return the runs of an arm's kind with ``nats``: what was missed in lengths not seen.

        ``seen`` has those lengths, one name for those that are alike. Of an arm that is both taught
        and grown, where none is, those that are grown. against: minus
        what was missed of the stand-alone run of that size, length and seed.
        """
        runs, of = self.outlook.runs, self.arms[arm]
        missed = runs.loss * -np.expm1(-self.outlook.choice.residuals)
        known = runs.assign(nats=missed, seen=alike(runs))
        if not (of.is_taught or of.is_grown):
            return stand_alone(known)
        is_like = ((known.taught > 0) == of.is_taught) & ((known.grown > 0) == of.is_grown)
        own = known[is_like] if is_like.any() or not of.is_grown else known[known.grown > 0]
        if against is None:
            return own
        place = ["parameters", "steps", "seed"]
        other = stand_alone(known)[[*place, "nats"]]
        both = own.merge(other, on=place, suffixes=("", "_alone"))
        return both.assign(nats=both.nats - both.nats_alone)


def by_record(
    outlook: Outlook, probe: Results, arms: Sequence[str], listening: Listening, budget: Budget
) -> Advice:
    """Return what a record's law says of a budget.

    probe: a taught run of a few steps. arms: of `dwt_cli.study.advice.WHAT`.
    Raises `UserError` where the probe's text, or its teacher's loss, is not the record's.
    """
    taught, record = probe.runs[probe.runs.taught > 0], outlook.runs.attrs
    if taught.empty:
        raise UserError(
            "advise.record: this teacher is not listened to, not even at first; choose "
            "alpha=normal to ask about it nevertheless"
        )
    run = taught.iloc[0]
    for known, own, said in (
        (record["text"], {run.text, run.text_formerly}, "on another text, or in other tokens"),
        (record["masks"], {run.masks}, "with other held-out masks"),
    ):
        if known not in own:
            raise UserError(f"advise.record: its runs are {said}; name other studies")
    if math.isnan(run.teacher_heldout_loss) or math.isnan(run.layer_parameters):
        raise UserError(
            "advise.record: its law takes a student that is made here, and a teacher whose "
            "held-out loss is known; leave it out, for a ladder"
        )
    of_both = Arm(
        parameters=float(run.layer_parameters),
        tokens=float(run.tokens / run.steps),
        text=float(run.tokens / run.epochs),
        teacher=Teacher(
            float(run.teacher_heldout_loss),
            listening.weight,
            min(1.0, float(run.teacher_parameters / run.parameters)),
        ),
        own=float(run.flops_student / run.steps),
        passes=float(run.flops_teacher_forward / (run.taught * run.steps)),
        listening=listening,
    )
    each = [replace(of_both, is_taught=arm in TAUGHT, is_grown=arm in GROWN) for arm in arms]
    costs = [arm.cost(outlook.law) for arm in each]
    steps = costs[0].steps(budget.flops)
    return Advice(
        budget,
        recorded := Recorded(outlook, each, steps),
        sorted(map(int, outlook.runs.seed.unique())),
        forecasts(recorded, dict(zip(arms, costs, strict=True)), budget),
        of_both.teacher.loss,
        (
            float(steps * of_both.tokens / of_both.text),
            float((outlook.runs.tokens / outlook.runs.new_tokens).max()),
        ),
        float(probe.runs.flops_forward.sum()),
        float(probe.runs.student_seconds.sum()),
    )
