"""What is compared with what: a study's cells -> differences by seed, verdicts, costs, crossings.

Every difference is arm minus the other one, in nats of held-out loss: below 0 the arm is better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from dwt_cli.study.compute import Account, Cost, cost_to_reach, crossings, loss_at
from dwt_cli.study.options import Claim
from dwt_cli.study.results import Cell, Results
from dwt_cli.study.statistics import Difference, difference, holm, verdict

BySeed = dict[int, float]
_Values = Mapping[int, float | None]  # by seed
_X = TypeVar("_X")


def _minus(ours: _Values, theirs: _Values) -> BySeed:
    """Return the differences for the seeds that both have."""
    pairs = ((seed, one, theirs.get(seed)) for seed, one in ours.items())
    return {seed: a - b for seed, a, b in pairs if a is not None and b is not None}


def losses_apart(
    results: Results, arm: str, against: str, length: int, progress: float = 1.0
) -> BySeed:
    """Return arm minus `against` at a share of the run, for the seeds that both have."""
    ours, theirs = (results.of(one, length) for one in (arm, against))
    return _minus(
        {seed: cell.loss_at(progress) for seed, cell in ours.items()},
        {seed: cell.loss_at(progress) for seed, cell in theirs.items()},
    )


def curves_apart(results: Results, arm: str, against: str, length: int) -> dict[float, BySeed]:
    """Return arm minus `against` at every evaluation that both have, by the share of the run.

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


def common(by_x: Mapping[_X, BySeed]) -> dict[_X, list[float]]:
    """Return the values of the seeds that are there at every x; nothing if there is none."""
    seeds = set.intersection(*map(set, by_x.values())) if by_x else set()
    return {x: [of[seed] for seed in seeds] for x, of in by_x.items()} if seeds else {}


def at_equal_flops(results: Results, arm: str, length: int, account: Account) -> BySeed:
    """Return arm minus the stand-alone of as many FLOPs, for the seeds with one that long."""
    cells = results.of(arm, length)
    alone = {
        seed: loss_at(results.stand_alone_points(seed), budget)
        for seed, cell in cells.items()
        if (budget := cell.flops(account)) is not None
    }
    return _minus({seed: cell.loss for seed, cell in cells.items()}, alone)


def teachers_apart(results: Results, arm: str, length: int) -> BySeed:
    """Return the teacher minus the stand-alone student: at 0 or below it is no weak teacher."""
    assert results.baseline is not None
    alone = results.of(results.baseline, length)
    return _minus(
        {seed: cell.teacher_loss for seed, cell in results.of(arm, length).items()},
        {seed: cell.loss for seed, cell in alone.items()},
    )


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
    """Return every claim at every length that it is about, corrected for their number."""
    study = results.study
    about = [
        (each, length)
        for each in study.claims
        for length in ([each.length] if each.length else study.lengths_of(each.arm, each.against))
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
    """Return every arm that is not the stand-alone student, at every length that it has."""
    if (base := results.baseline) is None:
        return []
    return [
        AgainstAlone(
            arm,
            length,
            losses_apart(results, arm, base, length),
            {
                account: at_equal_flops(results, arm, length, account)
                for account in (Account.FORWARD, Account.WHOLE)
            },
            teachers_apart(results, arm, length),
        )
        for arm in results.compared
        for length in results.study.lengths_of(arm)
        if results.of(arm, length)
    ]


def costs_to_equal(results: Results, arm: str, length: int, account: Account) -> dict[int, Cost]:
    """What an arm takes to end where the stand-alone student of a length ends, as a multiple of
    that student's FLOPs, by seed. A seed that lacks some of the arm's lengths is left out."""
    assert results.baseline is not None
    trained = [n for n in results.study.lengths_of(arm) if results.of(arm, n)]
    points = {seed: results.points(arm, seed, account) for seed in results.study.seeds}
    return {
        seed: cost.over(alone.summary["cost"]["student_flops"])
        for seed, alone in results.of(results.baseline, length).items()
        if len(points[seed]) == len(trained) and (cost := cost_to_reach(points[seed], alone.loss))
    }


# ------------------------------------------------------------------------------------ crossings


def pairs(results: Results) -> list[tuple[str, str]]:
    """Return each arm with the baseline, and the pairs of the claims."""
    base = results.baseline
    named = [(arm, base) for arm in results.compared] if base is not None else []
    claimed = [(claim.arm, claim.against) for claim in results.study.claims]
    return list(dict.fromkeys(named + claimed))


def over_lengths(results: Results, arm: str, against: str) -> dict[int, float]:
    """Return the mean difference at the end of each length, over the seeds that have them all."""
    lengths = results.study.lengths_of(arm, against)
    found = {length: losses_apart(results, arm, against, length) for length in lengths}
    by_length = common({length: gaps for length, gaps in found.items() if gaps})
    return {length: fmean(gaps) for length, gaps in by_length.items()}


def crossing_lengths(at_end: Mapping[int, float]) -> list[float]:
    """Return the lengths at which differences change sign, interpolated in their logarithm."""
    return [math.exp(x) for x in crossings([(math.log(n), gap) for n, gap in at_end.items()])]


def within_run(results: Results, arm: str, against: str, length: int) -> list[tuple[float, float]]:
    """Return (share of the run, mean difference) over the seeds whose curves are whole."""
    by_share = common(curves_apart(results, arm, against, length))
    return [(share, fmean(gaps)) for share, gaps in by_share.items()]


def of_full_length(results: Results, arm: str, length: int) -> dict[int, Cell]:
    """The cells of an arm that have the same number of steps as the baseline's, or as most."""
    cells = results.of(arm, length)
    if results.baseline is None or arm not in results.stand_alone:
        return cells
    steps = {cell.steps for cell in results.of(results.baseline, length).values()}
    return {seed: cell for seed, cell in cells.items() if cell.steps in steps}
