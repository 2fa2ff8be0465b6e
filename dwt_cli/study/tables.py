"""The report's tables: a study's results as rows of text, by column. No formula is here."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pandas as pd

from dwt_cli.study.comparisons import (
    Difference,
    against_alone,
    claims,
    crossing_lengths,
    curves_apart,
    difference,
    headline,
    judge,
    lengths_apart,
    losses_apart,
    pairs,
)
from dwt_cli.study.compute import Account, Cost, crossings
from dwt_cli.study.record import Expect
from dwt_cli.study.results import Results

Row = dict[str, Any]

AHEAD = "†"
NONE = "-"

_BETWEEN = "Between 15% and 85% of its run: here a switching point can be judged."
_AT_ONCE = "Before 15% of its run: the teacher is passed at once, there is little to learn from it."
_LATE = "After 85% of its run, or in some seed never: listen to the end, or grow."

BEYOND = "beyond the longest stand-alone"
DIRTY = "-dirty"  # a commit with it: git found changes that were not committed

_SIGN = {
    Expect.lower: "{} - {} < 0",
    Expect.higher: "{} - {} > 0",
    Expect.not_higher: "{} - {} < {:g}",
    Expect.equal: "{} - {} within {:g}",
}
_MEASURES = [
    *("steps", "heldout_loss", "teacher_heldout_loss"),
    *(account.column for account in Account),
    "student_seconds",
]


def interval(found: Difference | None, num_seeds: int | None = None, form: str = "+.3f") -> str:
    """mean [low, high]; how many pairs there are is said where it is not `num_seeds`."""
    if found is None:
        return NONE
    if found.low is None:
        return f"{found.mean:{form}} (one seed)"
    few = "" if num_seeds in (None, found.num_pairs) else f" (n={found.num_pairs})"
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]{few}"


def verdicts(results: Results) -> Iterator[Row]:
    """Yield what became of each claim."""
    for each in judge(results):
        claim, num = each.claim, len(each.by_seed)
        share = "the end" if claim.progress == 1 else f"{claim.progress:.0%} of the run"
        yield {
            "claim": claim.claim,
            "length": each.length,
            "compared": _SIGN[claim.expect].format(claim.arm, each.against, claim.within),
            "at": share if claim.tokens is None else f"{claim.tokens:,} tokens",
            "difference [95%]": interval(each.found),
            "pairs": num,
            "Holm's p": NONE if num < 2 else probability(each.adjusted_p),
            "verdict": each.verdict,
        }


def too_short(results: Results) -> Iterator[str]:
    """Yield the claims about more tokens than a length has."""
    for claim, length, is_there in claims(results):
        if not is_there:
            yield f"length {length} has no {claim.tokens:,} tokens, so no such claim: {claim.claim}"


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def losses(results: Results) -> Iterator[Row]:
    """Yield held-out losses at the end; where the teacher is ahead, the seed is marked."""
    beside = against_alone(results)
    ahead = beside[beside.lead >= 0].set_index(["arm", "length", "seed"]).index
    by_length = results.runs.sort_values("length", kind="stable")
    is_repeated = (results.runs.epochs > 1).any()
    for (length, arm), runs in by_length.groupby(["length", "arm"], sort=False):
        found = runs.set_index("seed").heldout_loss
        row = {
            "arm": arm,
            "length": length,
            "steps": _list(sorted(runs.steps.unique())),
            **({"epochs": f"{runs.epochs.max():.1f}"} if is_repeated else {}),
            "mean": f"{found.mean():.3f}",
            "sd": f"{found.std():.3f}" if len(found) > 1 else NONE,
        }
        for seed in results.study.seeds:
            mark = AHEAD if (arm, length, seed) in ahead else ""
            row[f"seed {seed}"] = f"{found[seed]:.3f}{mark}" if seed in found else NONE
        yield row


def means(results: Results) -> Iterator[Row]:
    """Yield mean held-out losses, and paired differences from the stand-alone arm, or the first.

    The length is a column where there are several.
    """
    reference = results.baseline or next(iter(results.runs.arm), None)
    by_length = results.runs.sort_values("length", kind="stable")
    for (length, arm), runs in by_length.groupby(["length", "arm"], sort=False):
        apart = difference(losses_apart(results, arm, str(reference), length))
        yield {
            "arm": arm,
            **({"length": length} if results.runs.length.nunique() > 1 else {}),
            "seeds": len(runs),
            "held-out": f"{runs.heldout_loss.mean():.3f}",
            "sd": f"{runs.heldout_loss.std():.3f}" if len(runs) > 1 else NONE,
            f"minus {reference}": interval(apart, len(results.study.seeds)) * (arm != reference),
        }


def beside_alone(results: Results, is_exploratory: bool) -> Iterator[Row]:
    """Yield each arm beside the stand-alone student, at equal steps and at equal FLOPs."""
    num = len(results.study.seeds)
    beside = against_alone(results)
    beside = beside[beside.arm.isin(results.study.exploratory) == is_exploratory]
    for (arm, length), runs in beside.groupby(["arm", "length"], sort=False):
        found = runs.lead.dropna()
        mark = AHEAD if (found >= 0).any() else ""
        yield {
            "arm": arm,
            "length": length,
            "equal steps": interval(difference(runs.gap.dropna()), num),
            "equal FLOPs, with the teacher's forward": _equal(results, runs, Account.FORWARD),
            "with its pre-training, too": _equal(results, runs, Account.WHOLE),
            "lead": f"{found.mean():+.3f}{mark}" if len(found) else NONE,
        }


def leads(results: Results) -> dict[str, list[Row]]:
    """Return where the stand-alone student passes its teachers, by what that is good for.

    A row for each length and the arms that share a teacher there.
    """
    found: dict[str, list[Row]] = {heading: [] for heading in (_BETWEEN, _AT_ONCE, _LATE)}
    beside = against_alone(results).dropna(subset="lead")
    teachers = beside.groupby(["length", "arm"], sort=False).teacher_heldout_loss.agg(tuple)
    shared = teachers.reset_index("arm").groupby(["length", "teacher_heldout_loss"], sort=False)
    for (length, _), arms in shared.arm:
        runs = beside[(beside.length == length) & (beside.arm == arms.iloc[0])]
        share = runs.passes.mean(skipna=False)
        row = {
            "length": length,
            "lead": interval(difference(runs.lead), len(results.study.seeds)),
            "passes at": NONE if share != share else f"{share:.0%}",
            "by seed": ", ".join("never" if x != x else f"{x:.0%}" for x in runs.passes),
            "arms": ", ".join(arms),
        }
        found[_AT_ONCE if share < 0.15 else _BETWEEN if share <= 0.85 else _LATE].append(row)
    return found


def _equal(results: Results, runs: pd.DataFrame, account: Account) -> str:
    """Return the difference at equal FLOPs, or why there is none."""
    if found := difference(runs[account.name].dropna()):
        return interval(found, len(results.study.seeds))
    for seed, budget in zip(runs.seed, runs[account.column], strict=True):
        points = results.points(results.stand_alone, seed)
        if pd.isna(budget):
            return "the teacher's cost is unknown"
        if points and budget > points[-1][0]:
            return BEYOND
    return NONE


def costs(results: Results, seeds: Collection[int] | None = None) -> Iterator[Row]:
    """Yield shares of the FLOPs of the stand-alone student, whose loss is to be reached.

    seeds: those that are asked, None for all.
    """
    num = len(results.study.seeds if seeds is None else seeds)
    for each in headline(results, seeds).itertuples():
        mark = AHEAD if each.lead >= 0 else ""
        yield {
            "arm": each.arm,
            "length": each.length,
            "lead": NONE if pd.isna(each.lead) else f"{each.lead:+.3f}{mark}",
            **{account.value: multiple(by_seed, num) for account, by_seed in each.costs.items()},
        }


def headlines(results: Results) -> Iterator[str]:
    """Yield a sentence on the arm that takes the least, by length, and on its confirmation."""
    seeds, chosen_on = results.study.seeds, results.study.chosen_on
    others = [seed for seed in seeds if seed not in chosen_on] if chosen_on else []
    costs_of = {row["length"]: row for row in reversed([*costs(results, chosen_on or seeds)])}
    confirming = {(row["length"], row["arm"]): row for row in costs(results, others)}
    sunk, charged = Account.FORWARD.value, Account.WHOLE.value
    for length, row in sorted(costs_of.items()):
        said = (
            f"To the stand-alone student's final loss of length {length}, {row['arm']} takes "
            f"{row[sunk]} of that student's FLOPs {sunk}, {row[charged]} with the teacher's "
            "pre-training, too."
        )
        if chosen_on:
            again = confirming.get((length, row["arm"]))
            found = (
                f"the others take {again[sunk]} and {again[charged]}"
                if again
                else "there is no other"
            )
            said += f" It was chosen on seeds {', '.join(map(str, chosen_on))}; {found}."
        yield said


def multiple(by_seed: Sequence[Cost], num_seeds: int | None = None) -> str:
    """Over seeds: the mean and its interval if each has a number, else the range of the bounds."""
    exact = [cost.exact for cost in by_seed if cost.exact is not None]
    if len(exact) == len(by_seed):
        return interval(difference(exact), num_seeds, ".0%")
    few = "" if num_seeds in (None, len(by_seed)) else f" (n={len(by_seed)})"
    lowest = min(by_seed, key=lambda cost: (cost.at_least, cost.at_most))
    highest = max(by_seed, key=lambda cost: (cost.at_most, cost.at_least))
    return " to ".join(dict.fromkeys((_bound(lowest), _bound(highest)))) + few


def _bound(cost: Cost) -> str:
    if cost.exact is not None:
        return f"{cost.exact:.0%}"
    return f"< {cost.at_most:.0%}" if cost.at_least == 0 else f"> {cost.at_least:.0%}"


def crossings_over_lengths(results: Results) -> Iterator[Row]:
    """Yield the mean differences at the end of each length, and where they change sign."""
    for arm, against in pairs(results):
        at_end = lengths_apart(results, arm, against)
        if len(at_end) > 1:
            gaps = {
                f"at {n}": f"{at_end[n]:+.3f}" if n in at_end else NONE
                for n in results.study.lengths
            }
            places = ", ".join(f"about {x:.0f} steps" for x in crossing_lengths(at_end))
            yield {"pair": f"{arm} - {against}", **gaps, "crosses at": places or "nowhere"}


def crossings_within_run(results: Results) -> Iterator[Row]:
    """Yield the mean differences along runs, and where they change sign."""
    for arm, against in pairs(results):
        for length in results.study.lengths_of(arm, against):
            points = list(curves_apart(results, arm, against, length).mean(axis="columns").items())
            if len(points) > 1:
                middle = min(points, key=lambda point: abs(point[0] - 0.5))
                shown = {"first evaluation": points[0], "middle": middle, "end": points[-1]}
                at = {name: f"{gap:+.3f} ({share:.0%})" for name, (share, gap) in shown.items()}
                places = ", ".join(f"{share:.0%}" for share in crossings(points))
                where = {"pair": f"{arm} - {against}", "length": length}
                yield {**where, **at, "crosses at": places or "nowhere"}


def signals_apart(results: Results) -> str:
    """Return the arms whose teacher is asked once, and those that ask in each step.

    Nothing where there is one kind, or the study compares them.
    """
    arms = {kind: of.arm.unique() for kind, of in results.runs.groupby("is_cached")}
    if len(arms) < 2 or results.study.compares_signals:
        return ""
    once, online = (", ".join(arms[kind]) for kind in (True, False))
    return f"once in {once}, and in each step in {online}"


def biased(results: Results) -> str:
    """Return the arms whose teacher's rows are kept in a form that is biased."""
    return ", ".join(results.runs.arm[results.runs.biased.eq(True)].unique())


def commits(results: Results) -> Iterator[Row]:
    """Yield the commits that the runs are of, with their arms, unless it is one, and whole."""
    of = results.runs.commit.fillna("unknown")
    if of.nunique() > 1 or of.str.endswith(DIRTY).any():
        for commit, runs in results.runs.groupby(of, sort=False):
            arms = runs.groupby("arm", sort=False).length.agg(lambda of_arm: _list(of_arm.unique()))
            shown = ", ".join(f"{arm} ({lengths})" for arm, lengths in arms.items())
            is_dirty = commit.endswith(DIRTY)
            commit = commit.removesuffix(DIRTY) + ", and changes to it" * is_dirty
            yield {"commit": commit, "runs": len(runs), "arms (lengths)": shown}


def left_out(results: Results) -> Iterator[Row]:
    """Yield a row per arm and reason."""
    columns = ["arm", "what", "why"]
    for names, runs in results.left_out.groupby(columns, sort=False):
        by_length = runs.groupby("length", sort=False).seed.agg(_list)
        seeds = "; ".join(f"{length}: {of}" for length, of in by_length.items())
        yield {**dict(zip(columns, names, strict=True)), "length and seeds": seeds}


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.0f}" for number in numbers)


def runs_table(results: Results) -> pd.DataFrame:
    """Return results.csv: a row for every job of the study, be it in the figures or not."""
    found, more = results.jobs.copy(), ["identity", "folder", "words", "left_out"]
    found.loc[found.left_out.notna(), _MEASURES] = None
    return found[["arm", "length", "seed", *_MEASURES, *more]]
