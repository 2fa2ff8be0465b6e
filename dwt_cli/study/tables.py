"""The report's tables: a study's results as rows of text. No formula is here."""

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import product
from statistics import fmean

from dwt_cli.study.comparisons import (
    AgainstAlone,
    BySeed,
    Judged,
    costs_to_equal,
    crossing_lengths,
    over_lengths,
    pairs,
    within_run,
)
from dwt_cli.study.compute import Account, Cost, crossings
from dwt_cli.study.options import Expect
from dwt_cli.study.results import Results
from dwt_cli.study.statistics import Difference, difference, spread

AHEAD = "†"
NONE = "-"
BEYOND = "beyond the longest stand-alone"

Rows = list[list[str]]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, with an empty line after it."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + " --- |" * len(headings), *lines[1:], ""]


def interval(found: Difference | None, num_seeds: int | None = None) -> str:
    """mean [low, high]; how many pairs there are is said where it is not `num_seeds`."""
    if found is None:
        return NONE
    if found.low is None:
        return f"{found.mean:+.3f} (one seed)"
    few = "" if num_seeds in (None, found.num_pairs) else f" (n={found.num_pairs})"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{few}"


# ---------------------------------------------------------------------------------------- claims

_SIGN = {Expect.lower: "<", Expect.higher: ">"}
VERDICTS = ("claim", "length", "compared", "at", "difference [95%]", "pairs", "Holm's p", "verdict")


def verdicts(judged: Sequence[Judged]) -> Rows:
    return [
        [
            each.claim.claim,
            str(each.length),
            f"{each.claim.arm} - {each.claim.against} {_SIGN[each.claim.expect]} 0",
            "the end" if each.claim.progress == 1 else f"{each.claim.progress:.0%} of the run",
            interval(each.found),
            str(len(each.by_seed)),
            NONE if each.found is None or each.found.p is None else probability(each.adjusted_p),
            each.verdict,
        ]
        for each in judged
    ]


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# ---------------------------------------------------------------------------------------- losses


def losses_head(results: Results) -> list[str]:
    return ["arm", "length", "steps", "mean", "sd", *(f"seed {s}" for s in results.study.seeds)]


def losses(results: Results, compared: Iterable[AgainstAlone]) -> Rows:
    """Return held-out losses at the end; where the teacher is ahead, the seed is marked."""
    ahead = {(each.arm, each.length, seed) for each in compared for seed in each.teacher_ahead}
    rows = []
    for length, arm in product(results.study.lengths, results.study.arms):
        if cells := results.of(arm, length):
            found = [cell.loss for cell in cells.values()]
            by_seed = {
                seed: f"{cell.loss:.3f}{AHEAD if (arm, length, seed) in ahead else ''}"
                for seed, cell in cells.items()
            }
            sd = f"{spread(found):.3f}" if len(found) > 1 else NONE
            steps = _list(sorted({cell.steps for cell in cells.values()}))
            each = [by_seed.get(seed, NONE) for seed in results.study.seeds]
            rows.append([arm, str(length), steps, f"{fmean(found):.3f}", sd, *each])
    return rows


# ------------------------------------------------------------------------------- the stand-alone

AGAINST_ALONE = (
    "arm",
    "length",
    "equal steps",
    "equal FLOPs, with the teacher's forward",
    "with its pre-training, too",
    "teacher minus stand-alone",
)


def against_alone(results: Results, compared: Iterable[AgainstAlone]) -> Rows:
    num, rows = len(results.study.seeds), []
    for each in compared:
        equal_flops = [
            _differences(by_seed, num) if by_seed else _why_none(results, each, account)
            for account, by_seed in each.equal_flops.items()
        ]
        mean = f"{fmean(each.teacher.values()):+.3f}" if each.teacher else NONE
        gap = mean + (AHEAD if each.teacher_ahead else "")
        equal_steps = _differences(each.equal_steps, num)
        rows.append([each.arm, str(each.length), equal_steps, *equal_flops, gap])
    return rows


def _differences(by_seed: BySeed, num: int) -> str:
    return interval(difference(list(by_seed.values())), num)


def _why_none(results: Results, each: AgainstAlone, account: Account) -> str:
    for seed, cell in results.of(each.arm, each.length).items():
        budget = cell.flops(account)
        points = results.stand_alone_points(seed)
        if budget is None:
            return "the teacher's cost is unknown"
        if points and budget > points[-1][0]:
            return BEYOND
    return NONE


# ------------------------------------------------------------------------------------------ cost

COSTS = ("arm", "stand-alone of length", *(account.value for account in Account))


def costs(results: Results, arms: Iterable[str]) -> Rows:
    """Return multiples of the FLOPs of the stand-alone student, whose loss is to be reached."""
    assert results.baseline is not None
    num, rows = len(results.study.seeds), []
    for arm, length in product(arms, results.study.lengths_of(results.baseline)):
        by_account = [costs_to_equal(results, arm, length, account) for account in Account]
        if any(by_account):
            cells = [multiple(list(by_seed.values()), num) for by_seed in by_account]
            rows.append([arm, str(length), *cells])
    return rows


def multiple(by_seed: Sequence[Cost], num_seeds: int | None = None) -> str:
    """Over seeds: the mean and its interval if each has a number, else the range of the bounds."""
    exact = [cost.exact for cost in by_seed if cost.exact is not None]
    if not by_seed:
        return NONE
    few = "" if num_seeds in (None, len(by_seed)) else f" (n={len(by_seed)})"
    if len(exact) < len(by_seed):
        lowest = min(by_seed, key=lambda cost: (cost.at_least, cost.at_most))
        highest = max(by_seed, key=lambda cost: (cost.at_most, cost.at_least))
        ends = dict.fromkeys((_bound(lowest), _bound(highest)))
        return " to ".join(ends) + few
    found = difference(exact)
    assert found is not None
    if found.low is None:
        return f"{found.mean:.2f} (one seed)"
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]{few}"


def _bound(cost: Cost) -> str:
    if cost.exact is not None:
        return f"{cost.exact:.2f}"
    return f"< {cost.at_most:.2f}" if cost.at_least == 0 else f"> {cost.at_least:.2f}"


# ------------------------------------------------------------------------------------- crossings


def over_lengths_head(results: Results) -> list[str]:
    return ["pair", *(f"at {length}" for length in results.study.lengths), "crosses at"]


def crossings_over_lengths(results: Results) -> Rows:
    rows = []
    for arm, against in pairs(results):
        at_end = over_lengths(results, arm, against)
        if len(at_end) > 1:
            gaps = [f"{at_end[n]:+.3f}" if n in at_end else NONE for n in results.study.lengths]
            places = ", ".join(f"about {x:.0f} steps" for x in crossing_lengths(at_end))
            rows.append([f"{arm} - {against}", *gaps, places or "nowhere"])
    return rows


WITHIN_RUN = ("pair", "length", "first evaluation", "middle", "end", "crosses at")


def crossings_within_run(results: Results) -> Rows:
    rows = []
    for arm, against in pairs(results):
        for length in results.study.lengths_of(arm, against):
            points = within_run(results, arm, against, length)
            if len(points) > 1:
                middle = min(points, key=lambda point: abs(point[0] - 0.5))
                at = [f"{gap:+.3f} ({share:.0%})" for share, gap in (points[0], middle, points[-1])]
                places = ", ".join(f"{share:.0%}" for share in crossings(points))
                rows.append([f"{arm} - {against}", str(length), *at, places or "nowhere"])
    return rows


# ------------------------------------------------------------------------- what was left out

LEFT_OUT = ("arm", "what", "why", "length and seeds")


def left_out(results: Results) -> Rows:
    """A row per arm and reason."""
    grouped: dict[tuple[str, str, str], dict[int, list[int]]] = {}
    for out in results.left_out:
        lengths = grouped.setdefault((out.job.arm, out.what, out.why), {})
        lengths.setdefault(out.job.length, []).append(out.job.seed)
    return [
        [*key, "; ".join(f"{length}: {_list(seeds)}" for length, seeds in lengths.items())]
        for key, lengths in grouped.items()
    ]


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


# -------------------------------------------------------------------------- one line per run


def runs_csv(results: Results) -> str:
    """Return a line for every job of the study, whether it is in the figures or not."""
    text = io.StringIO()
    flops = [f"flops_{account.name.lower()}" for account in Account]
    columns = [
        *("arm", "length", "seed", "steps", "heldout_loss", "teacher_heldout_loss", *flops),
        *("student_seconds", "identity", "folder", "words", "left_out"),
    ]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for job in results.study.jobs:
        cell = results.of(job.arm, job.length).get(job.seed)
        found: list[object] = [None] * (4 + len(flops))
        if cell is not None:
            costs = [cell.flops(account) for account in Account]
            seconds = cell.summary["cost"]["student_seconds"]
            found = [cell.steps, cell.loss, cell.teacher_loss, *costs, seconds]
        more = [job.identity, job.folder, " ".join(job.words), results.why_not(job)]
        writer.writerow([job.arm, job.length, job.seed, *found, *more])
    return text.getvalue()
