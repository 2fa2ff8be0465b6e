"""What a ladder's record advises: whether a teacher pays with a budget, and by how much.

A ladder is a study whose arms are those that its owner may choose from, at three lengths. They are
compared at equal FLOPs, of student and teacher, and not at equal steps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize

from dwt_cli.base.errors import UserError
from dwt_cli.study.forecast import Forecaster, Interval, Ladder, Laws
from dwt_cli.study.results import Results

ALONE = "alone"
A_STEP = "FLOPs a step"  # on average over the budget
_THREE_TO_ONE = 0.41  # of the reach of a 90% interval: at most a quarter is above, by Student's t
_CHANCE = (
    " Of one arm that is chance one time in four or less, of the lowest of several more often."
)
WHAT = {
    ALONE: "do not distil: train alone",
    "taught": "listen to the teacher, and start at random",
    "grown": "grow from the teacher's weights, and do not listen to it",
    "both": "grow from the teacher's weights, and listen to it",
}
"""What each arm of a ladder stands for, in the order in which they are tried."""
TAUGHT, GROWN = ("taught", "both"), ("grown", "both")


@dataclass(frozen=True)
class Budget:
    """What the final run may take. text: as it was typed. speed: FLOPs a second."""

    text: str
    is_time: bool
    flops: float
    speed: float

    def shown(self, flops: float) -> str:
        """Return so many FLOPs in the unit of the budget."""
        if not self.is_time:
            return f"{flops:.3g} FLOPs"
        seconds = flops / self.speed
        size, unit = (3600, "h") if seconds >= 5400 else (60, "min") if seconds >= 90 else (1, "s")
        return f"{seconds / size:.3g} {unit}"


@dataclass(frozen=True)
class Cost:
    """FLOPs of an arm's runs of any length. own: of a step of the student. heard: of the teacher's
    passes in a run of so many steps."""

    own: float
    heard: Callable[[float], float]

    def flops(self, steps: float) -> float:
        """Return what so many steps take."""
        return self.own * steps + self.heard(steps)

    def steps(self, flops: float) -> float:
        """Return how many steps so many FLOPs pay for; 0 where not even the teacher is paid."""
        if flops <= self.flops(0):
            return 0.0
        most = flops / self.own * (1 + 1e-9)  # in a product with a quotient the last bit is chance
        return float(optimize.brentq(lambda n: self.flops(n) - flops, 0, most))


@dataclass(frozen=True)
class Forecast:
    """What an arm comes to with the whole budget.

    steps: that the budget pays for. cost: FLOPs, of the teacher too. loss: held-out, in nats, the
    mean over seeds. apart: minus that of the student alone, for as many FLOPs. own_loss, own_apart:
    the same of one run, whose seed moves it. horizon: the FLOPs at which that
    changes its sign; None: it does not. as_far: the steps that it takes alone to the same loss.
    """

    arm: str
    steps: int
    cost: Cost
    loss: Interval
    apart: Interval
    own_loss: Interval
    own_apart: Interval
    horizon: float | None
    as_far: float

    @property
    def is_likely_below(self) -> bool:
        """Whether at least three to one its mean over seeds is below the student alone's.

        Of this arm alone: the lowest of several is below by chance more often.
        """
        return self.apart.value + _THREE_TO_ONE * (self.apart.high - self.apart.value) < 0


@dataclass(frozen=True)
class Advice:
    """What is advised, and what that follows from.

    teacher_loss: on the same held-out text; None: not known, or per token of another kind.
    epochs: of the text, in the longest run that is forecast and in the ladder's longest. flops,
    seconds: that the ladder's runs have taken.
    """

    budget: Budget
    ladder: Forecaster
    seeds: list[int]
    forecasts: list[Forecast]
    teacher_loss: float | None
    epochs: tuple[float, float]
    flops: float
    seconds: float

    @property
    def best(self) -> Forecast:
        """The arm that is advised: the lowest of those that are likely below the student alone."""
        likely = [each for each in self.forecasts if each.is_likely_below]
        return min(likely, key=lambda each: each.apart.value, default=self.forecasts[0])

    @property
    def is_recorded(self) -> bool:
        """Whether it follows from runs on record, and no ladder was climbed."""
        return not len(self.ladder.lengths)

    @property
    def source(self) -> str:
        return "record" if self.is_recorded else "ladder"

    @property
    def reach(self) -> float:
        """How many times the longest run that is known the student alone is trained for."""
        return self.forecasts[0].steps / self.ladder.longest

    @property
    def is_trusted(self) -> bool:
        return self.reach <= self.ladder.farthest and not self.ladder.beyond

    @property
    def cost(self) -> float:
        """The FLOPs that the ladder took, as a share of the budget."""
        return self.flops / self.budget.flops

    def difference(self, arm: int, law: Laws, steps: float) -> float:
        """Return an arm's loss minus that of as many FLOPs alone. steps: those of the latter."""
        as_dear = self.forecasts[arm].cost.steps(self.forecasts[0].cost.flops(steps))
        return law.loss(arm, as_dear) - law.loss(0, steps)


def advise(results: Results, lengths: Sequence[int], budget: Budget) -> Advice:
    """Return what a ladder of these lengths says of a budget.

    Raises `UserError` where no seed has all of its runs.
    """
    runs = results.runs[results.runs.length.isin(lengths)]
    arms = [arm for arm in results.study.arms if arm in {*runs.arm}]
    losses = runs.pivot(index="seed", columns=["arm", "length"], values="heldout_loss")
    wanted = pd.MultiIndex.from_product([results.study.arms, lengths])
    whole = losses.reindex(columns=wanted).dropna()
    if whole.empty:
        why = results.left_out[results.left_out.what == "run"]
        named = "".join(f"; {r.arm}, {r.length} steps: {r.why}" for r in why[:1].itertuples())
        raise UserError(
            f"advise.seeds: no seed has all runs of the ladder{named}; "
            "what is missing is run by the same command"
        )
    losses_SAL = whole.to_numpy(float).reshape(len(whole), len(arms), len(lengths))
    ladder = Ladder(lengths, np.moveaxis(losses_SAL, 0, -1))
    longest = runs[runs.length == max(lengths)]
    costs = {arm: _cost(runs[runs.arm == arm]) for arm in arms}
    teachers, every = runs.teacher_heldout_loss.dropna(), results.runs  # with those for the speed
    epochs = (longest.epochs / longest.steps).mean() * costs[ALONE].steps(budget.flops)
    return Advice(
        budget,
        ladder,
        [int(seed) for seed in whole.index],
        forecasts(ladder, costs, budget),
        float(teachers.mean()) if len(teachers) else None,
        (float(epochs), float(longest.epochs.mean())),
        float(every.flops_forward.fillna(every.flops_student).sum()),
        float(every.student_seconds.sum() + every.remap_seconds.fillna(0).sum()),
    )


def forecasts(ladder: Forecaster, costs: Mapping[str, Cost], budget: Budget) -> list[Forecast]:
    """Return what each arm comes to; the first is the student alone."""
    alone, found = costs[ALONE], []
    n = alone.steps(budget.flops)
    for a, (arm, cost) in enumerate(costs.items()):
        steps = cost.steps(budget.flops)

        def apart(law: Laws, place: float, a: int = a, cost: Cost = cost) -> float:
            return law.loss(a, cost.steps(alone.flops(place))) - law.loss(0, place)

        horizon = ladder.horizon(apart, n) if a else None
        loss = ladder.interval(lambda law, a=a, steps=steps: law.loss(a, steps), a)  # type: ignore[misc]
        gap = ladder.interval(lambda law, apart=apart: apart(law, n), a, 0)  # type: ignore[misc]
        found.append(
            Forecast(
                arm,
                max(1, int(steps + 1e-6)),
                cost,
                loss,
                gap,
                ladder.of_one_run(loss, a),
                ladder.of_one_run(gap, a, against=0),
                horizon and alone.flops(horizon),
                ladder.law.steps(0, ladder.law.loss(a, steps)),
            )
        )
    return found


def _cost(runs: pd.DataFrame) -> Cost:
    """Return what an arm's runs take. What the two longest heard says how that grows: with a power
    of the length, for a teacher may be let go of or come late.

    As charged in the ladder: runs that hear the same kept answers share them, weights found from a
    run alone that is on record are free, and so are a learned map and a teacher asked elsewhere.
    """
    own = (runs.flops_student / runs.steps).mean()
    heard_L = (runs.flops_forward - runs.flops_student).fillna(0).groupby(runs.length).mean()
    power, longest = 1.0, float(heard_L.index[-1])
    if len(heard_L) > 1 and (heard_L.iloc[-2:] > 0).all():
        longer = longest / heard_L.index[-2]
        power = math.log(heard_L.iloc[-1] / heard_L.iloc[-2]) / math.log(longer)
    last, power = float(heard_L.iloc[-1]), min(1.0, max(0.0, power))
    return Cost(float(own), lambda steps: last * (steps / longest) ** power)


# ------------------------------------------------------------------------------------- in words


def answer(advice: Advice) -> str:
    """Return what to do, and why, in a sentence or two."""
    best, budget, alone = advice.best, advice.budget, advice.forecasts[0]
    head = f"with {budget.text}: {WHAT[best.arm]}."
    if not advice.is_trusted:
        far = advice.ladder.beyond or f"{advice.reach:,.0f} times its longest run"
        head = f"beyond what this {advice.source} can say ({far}), {head}"
    if best is not alone:
        gap = best.apart
        more = best.as_far / alone.steps
        saved = f"alone it takes {more:.3g} times the steps" if more < 100 else "alone far longer"
        chance = "" if gap.high < 0 else _CHANCE
        return (
            f"{head} It is forecast to end at {ranged(best.loss)} nats, {-gap.value:.3f} below the "
            f"student alone [{-gap.high:.3f}, {-gap.low:.3f}]; to that loss {saved}.{chance}"
        )
    if len(advice.seeds) < 2:
        then = "name a record of more" if advice.is_recorded else "set advise.seeds=2 or more"
        return f"{head} One seed says nothing of chance: {then}."
    return f"{head} No arm is likely to end below it there; it ends at {ranged(alone.loss)} nats."


def remarks(advice: Advice) -> Iterator[str]:
    """Yield what bears on the answer: trust, teacher, text, what would change it, its cost."""
    budget, best, alone = advice.budget, advice.best, advice.forecasts[0]
    ladder, source = advice.ladder, advice.source
    if advice.reach > ladder.farthest:
        share = min(1.0, advice.cost * advice.reach / ladder.farthest)
        further = f"advise.share={math.ceil(100 * share) / 100:g} would look far enough"
        further = "a record of longer runs would" if advice.is_recorded else further
        yield (
            f"not to be trusted: {alone.steps:,} steps are {advice.reach:,.0f} times the "
            f"{source}'s longest run of {ladder.longest:,.0f}, and {ladder.farthest:.0f} times is "
            f"as far as it looks; {further}"
        )
    if ladder.beyond:
        yield f"not to be trusted: {ladder.beyond}; a record of such ones would"
    if advice.teacher_loss is not None:
        ends = min(each.loss.value for each in advice.forecasts)
        line = f"the teacher's own held-out loss is {advice.teacher_loss:.3f}"
        if advice.teacher_loss < ends:
            line += f", ahead of anything that this budget reaches ({ends:.3f}): to use it as it is"
            line += " is better than any of these students"
        yield line
    for each in advice.forecasts[1:]:
        side = "below" if each.apart.value < 0 else "above"
        chance = "" if each.apart.low > 0 or each.apart.high < 0 else ", which may be chance"
        if math.isnan(each.apart.low) and len(advice.seeds) > 1:
            chance = f", but too few runs of the {source} are like it"
        if each.horizon is None:
            since = f"from {ladder.begins:,.0f} steps on"
            yield f"{each.arm} is forecast {side} the student alone {since}{chance}"
        else:
            other = "above" if side == "below" else "below"
            is_later = each.horizon > budget.flops
            before, after = (side, other) if is_later else (other, side)
            when = budget.shown(each.horizon)
            yield (
                f"{each.arm} is forecast {before} the student alone up to {when}, then {after} it"
                f"{chance}"
            )
    if advice.epochs[0] > 1:
        yield (
            f"the text is read {advice.epochs[0]:.3g} times; the {source} read it "
            f"{advice.epochs[1]:.2g} times"
            + ("" if advice.is_recorded else ", and knows nothing of repetition")
        )
    more = "a longer ladder (advise.share), more seeds (advise.seeds)"
    if advice.is_recorded:
        more = "a record of longer runs and more teachers; a ladder (without advise.record)"
    if best.horizon and best.horizon > budget.flops:
        more += f", a budget beyond {budget.shown(best.horizon)}"
    yield f"what may change it: {more}"
    of = "" if advice.is_recorded else f" in {len(advice.seeds)} seeds"
    yield (
        f"it took {budget.shown(advice.flops)}{of}, {advice.cost:.1%} of the budget; "
        f"{advice.seconds / 60:.1f} min of training"
    )


def ranged(found: Interval) -> str:
    """Return a forecast with its interval, where it has one."""
    if math.isnan(found.low):
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def table(advice: Advice) -> list[dict[str, str]]:
    """Return a row for each arm: what was measured, and what is forecast."""
    means_AL = advice.ladder.losses.mean(-1)
    rows = []
    for each, means in zip(advice.forecasts, means_AL, strict=True):
        ends = zip(advice.ladder.lengths, means, strict=True)
        rows.append(
            {"arm": each.arm}
            | {f"{length:,} steps": f"{mean:.3f}" for length, mean in ends}
            | {
                A_STEP: f"{advice.budget.flops / each.steps:.3g}",
                "steps": f"{each.steps:,}",
                "forecast [90%]": ranged(each.loss),
                "minus alone [90%]": "" if each.arm == ALONE else ranged(each.apart),
            }
        )
    return rows
