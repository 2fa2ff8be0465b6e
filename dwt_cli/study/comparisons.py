"""What is compared with what: a study's cells -> differences by seed, verdicts, costs, crossings.

Every difference is arm minus the other one, in nats of held-out loss: below 0 the arm is better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from dwt_cli.study.compute import Account, Cost, cost_to_reach, crossings, loss_at
from dwt_cli.study.record import Claim
from dwt_cli.study.results import Cell, Results
from dwt_cli.study.statistics import Difference, difference, holm, verdict

BySeed = dict[int, float]


def losses_apart(
    results: Results, arm: str, against: str, length: int, progress: float = 1.0
) -> BySeed:
    """Arm minus `against` at a share of the run, for the seeds that both have."""
    others = results.of(against, length)
    found = {}
    for seed, cell in results.of(arm, length).items():
        one = cell.loss_at(progress)
        other = others[seed].loss_at(progress) if seed in others else None
        if one is not None and other is not None:
            found[seed] = one - other
    return found


def curves_apart(results: Results, arm: str, against: str, length: int) -> dict[float, BySeed]:
    """Arm minus `against` at every evaluation that both have, by the share of the run.

    The start is left out, where nothing has been learned.
    """
    others = results.of(against, length)
    found: dict[float, BySeed] = {}
    for seed, cell in results.of(arm, length).items():
        if seed in others and others[seed].steps == cell.steps:
            other = dict(others[seed].curve)
            for step, loss in cell.curve:
                if step > 0 and step in other:
                    found.setdefault(step / cell.steps, {})[seed] = loss - other[step]
    return dict(sorted(found.items()))


def at_equal_flops(results: Results, arm: str, length: int, account: Account) -> BySeed:
    """Arm minus the stand-alone student that has as many FLOPs, where there is one that long."""
    found = {}
    for seed, cell in results.of(arm, length).items():
        budget = cell.flops(account)
        points = results.stand_alone_points(seed)
        alone = None if budget is None else loss_at(points, budget)
        if alone is not None:
            found[seed] = cell.loss - alone
    return found


def teachers_apart(results: Results, arm: str, length: int) -> BySeed:
    """The teacher minus the stand-alone student: at 0 or below it is no weak teacher."""
    assert results.baseline is not None
    alone = results.of(results.baseline, length)
    found = {}
    for seed, cell in results.of(arm, length).items():
        if cell.teacher_loss is not None and seed in alone:
            found[seed] = cell.teacher_loss - alone[seed].loss
    return found


# --------------------------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Judged:
    """A claim at one length, and what became of it. adjusted_p: after Holm's correction."""

    claim: Claim
    length: int
    by_seed: BySeed
    found: Difference | None
    adjusted_p: float
    verdict: str


def judge(results: Results) -> list[Judged]:
    """Every claim at every length that it is about, corrected for their number."""
    study = results.study
    about = [
        (claim, length)
        for claim in study.claims
        for length in (
            study.lengths_of(claim.arm, claim.against) if claim.length is None else [claim.length]
        )
    ]
    by_seed = [
        losses_apart(results, claim.arm, claim.against, length, claim.progress)
        for claim, length in about
    ]
    found = [difference(list(pairs.values())) for pairs in by_seed]
    adjusted = holm([1.0 if each is None or each.p is None else each.p for each in found])
    return [
        Judged(claim, length, pairs, each, p, verdict(each, p, claim.expect, study.smallest_effect))
        for (claim, length), pairs, each, p in zip(about, by_seed, found, adjusted, strict=True)
    ]


# ------------------------------------------------------------------------------- the stand-alone


@dataclass(frozen=True)
class AgainstAlone:
    """An arm at one length beside the stand-alone student. by_seed, equal_flops: see above."""

    arm: str
    length: int
    equal_steps: BySeed
    equal_flops: Mapping[Account, BySeed]
    teacher: BySeed

    @property
    def teacher_ahead(self) -> list[int]:
        """The seeds whose teacher is better than the stand-alone student."""
        return [seed for seed, gap in self.teacher.items() if gap <= 0]


def against_alone(results: Results) -> list[AgainstAlone]:
    """Every arm that is not the stand-alone student itself, at every length that it has."""
    if results.baseline is None:
        return []
    found = []
    for arm in results.compared:
        for length in results.study.lengths_of(arm):
            if results.of(arm, length):
                equal_flops = {
                    account: at_equal_flops(results, arm, length, account)
                    for account in (Account.FORWARD, Account.WHOLE)
                }
                equal_steps = losses_apart(results, arm, results.baseline, length)
                teacher = teachers_apart(results, arm, length)
                found.append(AgainstAlone(arm, length, equal_steps, equal_flops, teacher))
    return found


def costs_to_equal(results: Results, arm: str, length: int, account: Account) -> dict[int, Cost]:
    """What an arm takes to end where the stand-alone student of a length ends, as a multiple of
    that student's FLOPs, by seed. A seed that lacks some of the arm's lengths is left out."""
    assert results.baseline is not None
    found = {}
    trained = [n for n in results.study.lengths_of(arm) if results.of(arm, n)]
    for seed, alone in results.of(results.baseline, length).items():
        points = results.points(arm, seed, account)
        cost = cost_to_reach(points, alone.loss)
        if cost is not None and len(points) == len(trained):
            found[seed] = cost.over(alone.summary["cost"]["student_flops"])
    return found


# ------------------------------------------------------------------------------------ crossings


@dataclass(frozen=True)
class Pair:
    """Two arms over the lengths. at_end: the mean difference at each. crossing: the lengths, in
    steps, at which it changes sign, by interpolation in their logarithm."""

    arm: str
    against: str
    at_end: dict[int, float]

    @property
    def crossing(self) -> list[float]:
        points = [(math.log(length), gap) for length, gap in self.at_end.items()]
        return [math.exp(x) for x in crossings(points)]


def pairs(results: Results) -> list[tuple[str, str]]:
    """Each arm with the baseline, and the pairs of the claims."""
    base = results.baseline
    named = [(arm, base) for arm in results.compared] if base is not None else []
    claimed = [(claim.arm, claim.against) for claim in results.study.claims]
    return list(dict.fromkeys(named + claimed))


def over_lengths(results: Results, arm: str, against: str) -> Pair:
    """A pair at every length that both arms have, over the seeds that they have at all of them."""
    at = {
        length: gaps
        for length in results.study.lengths_of(arm, against)
        if (gaps := losses_apart(results, arm, against, length))
    }
    seeds = set.intersection(*map(set, at.values())) if at else set()
    means = {length: fmean(gaps[seed] for seed in seeds) for length, gaps in at.items() if seeds}
    return Pair(arm, against, means)


def within_run(results: Results, arm: str, against: str, length: int) -> list[tuple[float, float]]:
    """(share of the run, mean difference) over the seeds whose curves are whole."""
    by_share = curves_apart(results, arm, against, length)
    seeds = set.intersection(*map(set, by_share.values())) if by_share else set()
    return [(share, fmean(gaps[s] for s in seeds)) for share, gaps in by_share.items() if seeds]


def of_full_length(results: Results, arm: str, length: int) -> dict[int, Cell]:
    """The cells of an arm that have the same number of steps as the baseline's, or as most."""
    cells = results.of(arm, length)
    if results.baseline is None or arm not in results.stand_alone:
        return cells
    steps = {cell.steps for cell in results.of(results.baseline, length).values()}
    return {seed: cell for seed, cell in cells.items() if cell.steps in steps}
