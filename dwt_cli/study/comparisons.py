"""What is compared with what: a study's runs -> differences by seed, verdicts, costs, crossings.

Every difference is arm minus the other one, in nats of held-out loss: below 0 the arm is better.
Arms of one seed share text, batches and the initial student, so they are compared in pairs: a
difference is taken seed by seed, and Student's t is taken over the differences.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from dwt_cli.study.compute import Account, Cost, cost_to_reach, crossings, loss_at
from dwt_cli.study.record import Claim, Expect
from dwt_cli.study.results import Results
from dwt_cli.track.metrics import first_at

CONFIDENCE, SIGNIFICANT = 0.95, 0.05
_WITHIN = (Expect.not_higher, Expect.equal)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences. low, high: the ends of its 95% interval; p: two-sided,
    against 0. All three are None below two pairs."""

    mean: float
    num_pairs: int
    low: float | None = None
    high: float | None = None
    p: float | None = None


def difference(pairs: Sequence[float]) -> Difference | None:
    """Return the mean difference over seeds and its interval; None where there is no seed.

    The interval of equal differences is a point.
    """
    if not len(pairs):
        return None
    mean, num = float(np.mean(pairs)), len(pairs)
    if num < 2:
        return Difference(mean, num)
    if math.isclose(min(pairs), max(pairs), abs_tol=1e-12):  # equal but for rounding
        return Difference(mean, num, mean, mean, 1.0 if abs(mean) < 1e-12 else 0.0)
    tested = stats.ttest_1samp(pairs, 0.0)
    interval = tested.confidence_interval(CONFIDENCE)
    return Difference(mean, num, float(interval.low), float(interval.high), float(tested.pvalue))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given (Holm 1979, Scand. J. Statist. 6:65).

    Of m values in rising order the k-th (from 0) is multiplied by m - k; none is below the one
    before it, and none is above 1.
    """
    adjusted, floor = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        floor = max(floor, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = floor
    return adjusted


def verdict(
    found: Difference | None, adjusted_p: float, claim: Claim, smallest_effect: float
) -> str:
    """Return what becomes of a claim, by the rule that the report prints."""
    if found is None:
        return "undecided (no pair of runs)"
    if found.low is None or found.high is None:
        return "undecided (one seed)"
    if claim.expect in _WITHIN:
        apart = found.low > claim.within or (
            claim.expect is Expect.equal and found.high < -claim.within
        )
        is_sure = adjusted_p < SIGNIFICANT
        return "supported" if is_sure else "contradicted" if apart else "undecided"
    if -smallest_effect <= found.low and found.high <= smallest_effect:
        return "no difference"
    if not adjusted_p < SIGNIFICANT:
        return "undecided"
    return "supported" if (found.mean < 0) == (claim.expect is Expect.lower) else "contradicted"


def p_value(pairs: Sequence[float], claim: Claim) -> float:
    """Return the p of a claim before any correction; 1 below two pairs.

    Two-sided, against 0; of one that is within so many nats one-sided, against those, and of
    equality the larger of both sides' (two one-sided tests, Schuirmann 1987).
    """
    found, sides = difference(pairs), [1]
    if found is None or found.p is None:
        return 1.0
    if claim.expect not in _WITHIN:
        return found.p
    if claim.expect is Expect.equal:
        sides = [1, -1]
    if found.low == found.high:
        return float(any(side * found.mean >= claim.within for side in sides))
    tested = [
        stats.ttest_1samp(side * np.array(pairs), claim.within, alternative="less").pvalue
        for side in sides
    ]
    return float(max(tested))


def _losses(results: Results, arm: str, length: int, at: float) -> pd.Series:
    """Return held-out losses by seed at a `Claim.at`: the end, or the nearest evaluation.

    Of tokens it is at most a quarter away.
    """
    if at == 1:
        return results.of(arm, length).heldout_loss
    curves = results.curves
    curves = curves[(curves.arm == arm) & (curves.length == length)]
    step = curves.steps * (at if at < 1 else at / curves.tokens)
    away = (curves.step - step).abs()
    away = away if at < 1 else away[away <= step / 4]
    return curves.loc[away.groupby(curves.seed).idxmin()].set_index("seed").loss


def losses_apart(
    results: Results, arm: str, against: str, length: int, at: float = 1.0
) -> pd.Series:
    """Return arm minus `against` at a `Claim.at`, for the seeds that both have."""
    ours, theirs = (_losses(results, one, length, at) for one in (arm, against))
    return (ours - theirs).dropna()


def curves_apart(results: Results, arm: str, against: str, length: int) -> pd.DataFrame:
    """Return arm minus `against` at every evaluation that both have, over runs as long.

    A row per share of the run, a column per seed that is there at each. The start is left out,
    where nothing has been learned.
    """
    curves = results.curves[(results.curves.length == length) & (results.curves.step > 0)]
    ours, theirs = (curves[curves.arm == one] for one in (arm, against))
    both = ours.merge(theirs, on=["seed", "steps", "step", "share"], suffixes=("", "_theirs"))
    both["gap"] = both.loss - both.loss_theirs
    return both.pivot(index="share", columns="seed", values="gap").dropna(axis="columns")


def lengths_apart(results: Results, arm: str, against: str) -> pd.Series:
    """Return the mean difference at the end of each length, over the seeds that have them all."""
    lengths = results.study.lengths_of(arm, against)
    found = {length: losses_apart(results, arm, against, length) for length in lengths}
    by_seed = pd.DataFrame({length: gaps for length, gaps in found.items() if len(gaps)})
    return by_seed.dropna().mean().dropna()


@dataclass(frozen=True)
class Judged:
    """A claim at one length, and what became of it.

    against: the arm; of several the chosen one, or all while it is not known. adjusted_p: after
    Holm's correction.
    """

    claim: Claim
    length: int
    against: str
    by_seed: pd.Series
    found: Difference | None
    adjusted_p: float
    verdict: str


def claims(results: Results) -> list[tuple[Claim, int, bool]]:
    """Return every claim with each length that it is about, and whether that has so many tokens."""
    study, runs = results.study, results.runs
    a_step = (runs.tokens / runs.steps).median()  # not known before a run is finished
    return [
        (each, length, not (each.tokens or 0) > a_step * length)
        for each in study.claims
        for length in ([each.length] if each.length else study.lengths_of(*each.arms))
    ]


def judge(results: Results) -> list[Judged]:
    """Return every claim at every length that has it, corrected for their number."""
    study = results.study
    parts = []
    for claim, length, is_there in claims(results):
        if is_there:
            against = _chosen(results, claim, length)
            apart = losses_apart(results, claim.arm, against, length, claim.at)
            pairs = apart.drop(claim.chosen_on, errors="ignore")
            parts.append((claim, length, against, pairs, difference(pairs)))
    adjusted = holm([p_value(pairs, claim) for claim, _, _, pairs, _ in parts])
    return [
        Judged(*part, p, verdict(part[-1], p, part[0], study.smallest_effect))
        for part, p in zip(parts, adjusted, strict=True)
    ]


def _chosen(results: Results, claim: Claim, length: int) -> str:
    """Return the arm that another is compared with; of several, all while one is not chosen."""
    if not claim.best_of:
        return str(claim.against)
    losses = pd.DataFrame({arm: _losses(results, arm, length, claim.at) for arm in claim.best_of})
    chosen = losses.reindex(claim.chosen_on)
    return (
        " or ".join(claim.best_of) if chosen.isna().any(axis=None) else str(chosen.mean().idxmin())
    )


def against_alone(results: Results) -> pd.DataFrame:
    """Return the runs of arms that are not the stand-alone student, beside that student.

    Added are ``gap``, the difference from the one of the same length and seed; ``lead``, the final
    loss of that one minus the teacher's, which is below 0 for a weak teacher; ``passes``, the share
    of that one's run at which it comes down to the teacher's loss; and, named as the account is,
    the difference from the one of as many FLOPs. NaN where there is none; no runs without a
    baseline.
    """
    every, base = results.runs, results.baseline
    runs = every[every.arm.isin(results.compared if base else [])]
    alone = every.loc[every.arm == base, ["length", "seed", "heldout_loss", "curve", "steps"]]
    found = runs.merge(alone, "left", ["length", "seed"], suffixes=("", "_alone"))
    found["gap"] = found.heldout_loss - found.heldout_loss_alone
    found["lead"] = found.heldout_loss_alone - found.teacher_heldout_loss
    curves = zip(found.curve_alone, found.teacher_heldout_loss, strict=True)
    steps = [first_at(curve, loss) if curve == curve else None for curve, loss in curves]
    found["passes"] = np.array(steps, float) / found.steps_alone
    for account in (Account.FORWARD, Account.WHOLE):
        budgets = zip(found.seed, found[account.column], strict=True)
        as_dear = [
            loss_at(results.points(results.stand_alone, seed), budget) for seed, budget in budgets
        ]
        found[account.name] = found.heldout_loss - np.array(as_dear, float)
    return found


def costs_to_equal(results: Results, arm: str, length: int, account: Account) -> dict[int, Cost]:
    """Return what an arm takes to end where the stand-alone student of a length ends, by seed.

    In multiples of that student's FLOPs. A seed that lacks a length of the arm is left out, unless
    a shorter one gets there.
    """
    assert results.baseline is not None
    runs = results.runs[results.runs.arm == arm]
    lengths, found = sorted(runs.length.unique()), {}
    for seed, alone in results.of(results.baseline, length).iterrows():
        points = [(x / alone.flops_student, y) for x, y in results.points({arm}, seed, account)]
        own = sorted(runs.length[runs.seed == seed].unique())
        if len(points) != len(own) or own != lengths[: len(own)]:
            continue
        gets_there = own == lengths or any(loss <= alone.heldout_loss for _, loss in points)
        if gets_there and (cost := cost_to_reach(points, alone.heldout_loss)):
            found[seed] = cost
    return found


def mean_cost(by_seed: Sequence[Cost]) -> tuple[float, int]:
    """Return the mean over seeds, and whether it is at most (-1), exactly or at least (1) that."""
    if not by_seed or any(cost.at_most == math.inf for cost in by_seed):
        return float(np.mean([cost.at_least for cost in by_seed] or [math.inf])), 1
    side = 0 if all(cost.exact for cost in by_seed) else -1
    return float(np.mean([cost.at_most for cost in by_seed])), side


def headline(results: Results, seeds: Container[int] | None = None) -> pd.DataFrame:
    """Return what each arm takes to the stand-alone student's final loss, the least first.

    seeds: those that are asked, None for all. costs: of each seed, by account. share, side:
    `mean_cost` with the teacher's forward. lead: the mean over all seeds, NaN without a teacher.
    The shortest length has no shorter runs to look at. What does not get there in every seed comes
    last.
    """
    lengths = results.study.lengths_of(results.baseline)[1:] if results.baseline else []
    rows = []
    for arm, length in product(results.compared, lengths):
        of_seeds = {each: costs_to_equal(results, arm, length, each).items() for each in Account}
        costs = {
            account: [cost for seed, cost in found if seeds is None or seed in seeds]
            for account, found in of_seeds.items()
        }
        if any(costs.values()):
            rows.append((arm, length, costs, *mean_cost(costs[Account.FORWARD])))
    found = pd.DataFrame(rows, columns=["arm", "length", "costs", "share", "side"])
    leads = against_alone(results).groupby(["arm", "length"]).lead.mean()
    found = found.assign(is_short=found.side > 0).sort_values(["length", "is_short", "share"])
    return found.drop(columns="is_short").join(leads, on=["arm", "length"])


def pairs(results: Results) -> list[tuple[str, str]]:
    """Return each arm with the baseline, and the pairs of the claims."""
    base = results.baseline
    named = [(arm, base) for arm in results.compared] if base is not None else []
    claimed = [(claim.arm, claim.against) for claim in results.study.claims if claim.against]
    return list(dict.fromkeys(named + claimed))


def crossing_lengths(at_end: pd.Series) -> list[float]:
    """Return the lengths at which differences change sign, interpolated in their logarithm."""
    return [math.exp(x) for x in crossings([(math.log(n), gap) for n, gap in at_end.items()])]
