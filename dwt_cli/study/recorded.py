"""A record's law as a forecaster: what arms come to that were never run.

An arm is what a probe of a few steps knows of it: how large its student is, how good its teacher,
what a step takes. The rest is the law's. Intervals are of laws of seeds drawn anew, with errors
that the law made in forecasting lengths that it had not seen: of a difference, those of pairs.

Shapes: A arms, the first is the one that the others are compared with.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dwt_cli.base.errors import UserError
from dwt_cli.study.advice import GROWN, TAUGHT, Advice, Budget, Cost, forecasts
from dwt_cli.study.forecast import CONFIDENCE, Forecaster, Interval, Laws
from dwt_cli.study.forms import Array
from dwt_cli.study.law import Law
from dwt_cli.study.outlook import Outlook
from dwt_cli.study.results import Results


@dataclass(frozen=True)
class Arm:
    """What is known of an arm before it is run.

    parameters: those without the table of tokens. tokens: of a step. text: those that there are.
    teacher: its held-out loss. own, passes: FLOPs of a step of the student, and of the teacher's.
    lets_go: whether the teacher is left once the student has caught up.
    """

    parameters: float
    tokens: float
    text: float
    teacher: float
    own: float
    passes: float
    is_taught: bool = False
    is_grown: bool = False
    lets_go: bool = False

    def taught(self, law: Law, steps: float) -> float:
        """Return how many of so many steps are taught."""
        if not self.is_taught:
            return 0.0
        if not self.lets_go:
            return steps
        return min(steps, law.heard(self.parameters, self.teacher, self.is_grown) / self.tokens)

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
        new = min(read, of.text)
        given = (of.parameters, read, new, share, float(of.is_grown), of.teacher)
        return float(self.law.of([np.array([each]) for each in given])[0])

    def steps(self, arm: int, loss: float) -> float:
        places = np.geomspace(1.0, 1e9, 400)
        losses = [self.loss(arm, place) for place in places]
        found = [place for place, each in zip(places, losses, strict=True) if each <= loss]
        return float(found[0]) if found else math.inf


class Recorded(Forecaster):
    """Arms, by the law of a record."""

    def __init__(self, outlook: Outlook, arms: Sequence[Arm]) -> None:
        self.outlook, self.arms = outlook, arms
        self.law = ArmLaws(outlook.law, arms)
        self.lengths, self.losses = [], np.zeros((len(arms), 0, 1))  # none was measured

    @property
    def longest(self) -> float:
        return self.outlook.law.tokens / self.arms[0].tokens

    @property
    def begins(self) -> float:
        return float(self.outlook.runs.tokens.min() / self.arms[0].tokens)

    def interval(
        self, of: Callable[[Laws], float], arm: int, against: int | None = None
    ) -> Interval:
        cells = ["parameters", "arm", "length"]
        value = of(self.law)
        moved = [of(ArmLaws(law, self.arms)) - value for law in self.outlook.drawn]
        return self._around(value, moved, self._missed(arm, against, cells))

    def of_one_run(self, mean: Interval, arm: int, against: int | None = None) -> Interval:
        own = self._missed(arm, against, ["parameters", "arm", "length", "seed"])
        alone = self._around(mean.value, [0.0], own)
        return Interval(mean.value, min(mean.low, alone.low), max(mean.high, alone.high))

    def _missed(self, arm: int, against: int | None, cells: list[str]) -> Array:
        """Return what was missed in nats in lengths not seen, by runs of an arm's kind.

        Averages over cells; against: minus what was missed of the stand-alone run of that seed.
        """
        runs = self.outlook.runs
        nats = runs.loss * -np.expm1(-self.outlook.choice.missed)
        known = runs.assign(nats=nats)
        own, other = (_of_kind(known, self.arms[k]) for k in (arm, against or 0))
        if against is not None:
            place = ["parameters", "length", "seed"]
            apart = own.merge(other[[*place, "nats"]], on=place, suffixes=("", "_alone"))
            own = apart.assign(nats=apart.nats - apart.nats_alone)
        found: Array = own.groupby(cells).nats.mean().to_numpy()
        return found

    def _around(self, value: float, moved: Sequence[float], missed: Array) -> Interval:
        if self.outlook.runs.seed.nunique() < 2 or not len(missed):
            return Interval(value, math.nan, math.nan)
        ends = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
        low, high = np.quantile(np.add.outer(np.array(moved), missed), ends)
        return Interval(value, value + min(0.0, float(low)), value + max(0.0, float(high)))


def _of_kind(runs: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    """Return the runs that are taught, or grown, as an arm is; all of them, if there is none."""
    alike = ((runs.taught > 0) == arm.is_taught) & ((runs.grown > 0) == arm.is_grown)
    return runs[alike] if alike.any() else runs


def by_record(
    outlook: Outlook, probe: Results, arms: Sequence[str], lets_go: bool, budget: Budget
) -> Advice:
    """Return what a record's law says of a budget.

    probe: a taught run of a few steps. arms: of `dwt_cli.study.advice.WHAT`.
    Raises `UserError` where the probe's text, or its teacher's loss, is not the record's.
    """
    run = probe.runs[probe.runs.taught > 0].iloc[0]
    if run.text != outlook.runs.attrs["text"]:
        raise UserError("advise.record: its runs are on another text; name studies of this one")
    if math.isnan(run.teacher_heldout_loss) or math.isnan(run.layer_parameters):
        raise UserError(
            "advise.record: its law takes a student that is made here, and a teacher whose "
            "held-out loss is known; leave it out, for a ladder"
        )
    of_both = Arm(
        parameters=float(run.layer_parameters),
        tokens=float(run.tokens / run.steps),
        text=float(run.tokens / run.epochs),
        teacher=float(run.teacher_heldout_loss),
        own=float(run.flops_student / run.steps),
        passes=float((run.flops_forward - run.flops_student) / (run.taught * run.steps)),
        lets_go=lets_go,
    )
    each = [replace(of_both, is_taught=arm in TAUGHT, is_grown=arm in GROWN) for arm in arms]
    recorded, costs = Recorded(outlook, each), [arm.cost(outlook.law) for arm in each]
    epochs = costs[0].steps(budget.flops) * of_both.tokens / of_both.text
    known = outlook.runs.tokens / outlook.runs.new_tokens
    return Advice(
        budget,
        recorded,
        sorted(map(int, outlook.runs.seed.unique())),
        forecasts(recorded, dict(zip(arms, costs, strict=True)), budget),
        of_both.teacher,
        (float(epochs), float(known.max())),
        float(probe.runs.flops_forward.sum()),
        float(probe.runs.student_seconds.sum()),
    )
