"""A law in print: law.md and law.html with a picture; and law.jsonl, what it has forecast."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy import stats

from dwt_cli.base import atomic, locks
from dwt_cli.base.errors import UserError
from dwt_cli.base.templates import filled
from dwt_cli.study.figures import legend
from dwt_cli.study.forms import HEAD_START
from dwt_cli.study.law import Choice, Law, Teacher, choices, points, simplest
from dwt_cli.study.outlook import CONFIDENCE, Outlook, longer, longest_left_out, naive
from dwt_cli.study.report import page
from dwt_cli.study.results import Results
from dwt_cli.track.curves import BLUE, GREEN, GREY, ORANGE, finish, panels, save

FORECASTS = "law.jsonl"
_VERSION, _READ = 3, (2, 3)  # lines of others are kept, and not read
_FORECAST = ("value", "low", "high", "power", "last")
_AT_AN_END = 1e-3  # of its range, in its logarithm where that is above 0
_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
_short = EngFormatter(places=2, sep=" ")


def write_law(
    folder: Path,
    studies: Sequence[Results],
    ahead: int | None = None,
    commit: str | None = None,
) -> list[Path]:
    """Fit a law to the runs of studies and write its page into a folder; return the paths.

    ahead: steps of longer runs of the first study's arms; what is forecast of them is kept, with
    the commit of the code here.
    Raises `UserError` where there are too few lengths.
    """
    runs = points(*studies)
    own = runs[runs.arm.isin(studies[0].study.arms)]
    planned = None if ahead is None else longer(own, ahead)  # what cannot be is said at once
    tried = choices(runs)
    outlook = Outlook(simplest(tried), runs)
    if planned is not None:
        _keep(folder, outlook, own, planned, commit)
    title = f"A law of {len(runs)} runs"
    with atomic.needing_room(folder):
        figure = _drawn(outlook)
        legend(figure)
        save(figure, title, folder / "law.png", size=11, dpi=130)
    text = filled(
        __package__,
        "law.md.j2",
        title=title,
        law=outlook.law,
        numbers=_numbers(outlook),
        forms=[_form(each, outlook.choice) for each in sorted(tried, key=lambda each: each.error)],
        teachers=list(_teachers(outlook)),
        held_out=_held_out(runs),
        kept=list(_kept(folder, own)),
        runs=runs,
        drawn=outlook.drawn,
        left_out=", ".join(f"{num} {why}" for why, num in runs.attrs["left_out"].items()),
        studies=[results.study.name for results in studies],
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    paths = [folder / "law.html", folder / "law.md"]
    atomic.write_text(paths[0], page(text, title, folder))
    atomic.write_text(paths[1], text)
    return [*paths, folder / "law.png", *([folder / FORECASTS] if ahead else [])]


# ------------------------------------------------------------------------------------------ tables


def _numbers(outlook: Outlook) -> dict[str, str]:
    """Return each number of the law with the interval that seeds drawn anew give it."""
    law, found = outlook.law, {}
    ranges = {**law.alone.ranges, **law.listening.ranges, "q": HEAD_START}
    for name, value in law.numbers.items():
        low, _, high = ranges[name]
        share = value / (outlook.runs.loss.min() if name == "E" else 1)
        if low > 0:
            low, share, high = map(math.log, (low, share, high))
        room = _AT_AN_END * (high - low)
        at = " (at an end of its range)" if not low + room < share < high - room else ""
        found[name] = f"{value:.3g}" + _between([law.numbers[name] for law in outlook.drawn]) + at
    return found


def _between(values: Sequence[float], shown: Callable[[float], str] = "{:.3g}".format) -> str:
    """Return the 90% interval of values that were drawn; empty where none were."""
    if not len(values):
        return ""
    ends = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), method="nearest")
    return f" [{shown(ends[0])}, {shown(ends[1])}]"


def _form(each: Choice, chosen: Choice) -> dict[str, str]:
    return {
        "alone": each.law.alone.formula + (" *" if each is chosen else ""),
        "a teacher's effect": each.law.listening.formula,
        "numbers": str(len(each.law.numbers)),
        "error in a length not seen": f"{math.sqrt(each.error):.2%}",
    }


def _teachers(outlook: Outlook) -> Iterator[dict[str, str]]:
    """Yield, for each student and teacher that meet, what the teacher is worth and for how long."""
    runs = outlook.runs
    taught = _always(runs)
    for _, own in taught.groupby(["parameters", taught.teacher.round(1)]):
        size, *of, cost = own[["parameters", "teacher", "weight", "ratio", "cost"]].mean()
        teacher = Teacher(*of)
        drawn = [_worth(law, size, teacher, cost) for law in outlook.drawn]
        yield {"student": _short(size), "the teacher's loss": f"{teacher.loss:.2f}"} | {
            name: _tokens(value) + _between([each[name] for each in drawn], _tokens)
            for name, value in _worth(outlook.law, size, teacher, cost).items()
        }


def _always(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that listen to their teacher throughout, and were not grown."""
    return runs[(runs.taught > 0.99) & (runs.grown == 0)]


def _worth(law: Law, size: float, teacher: Teacher, cost: float) -> dict[str, float]:
    """Return what a teacher is worth by a law, in tokens."""
    start = {"saves as a start": law.begun(size, teacher)} if "q" in law.numbers else {}
    return {
        "alone as good after": law.level(size, teacher.loss),
        "saves, let go of in time": law.saved(size, teacher),
        **start,
        "heard always, pays up to": law.until(size, teacher),
        "the same at equal FLOPs": law.until(size, teacher, cost),
    }


def _tokens(number: float) -> str:
    if math.isnan(number):
        return "-"
    return "any" if math.isinf(number) else _short(number) if number else "none"


def _held_out(runs: pd.DataFrame) -> list[dict[str, str]]:
    """Return how the longest runs were forecast by the others; a row with the reason if not."""
    try:
        found = longest_left_out(runs)
    except UserError as error:
        return [{"": f"not tried: {error}"}]
    rows = list(_summed(found))
    if num := found.attrs["not_forecast"]:
        why = f"{num} taught, whose arms have no shorter runs: not forecast"
        rows.append(dict.fromkeys(rows[0], "") | {"runs": why})
    return rows


def _summed(found: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield errors and coverage of runs that are forecast: all, and by what they do.

    Errors are of means over seeds, by arm and length, and their absolute values' mean. Beside a
    forecast that not all of them have stands the law's error where they do.
    """
    is_taught, is_grown = found.taught > 0, found.grown > 0
    groups = {
        "all": found,
        "alone": found[~is_taught & ~is_grown],
        "taught": found[is_taught & ~is_grown],
        "grown": found[is_grown],
    }
    for name, own in groups.items():
        if own.empty:
            continue
        means = own.groupby(["arm", "steps"])[["loss", "value", "power", "last"]].mean()
        errors = (means.drop(columns="loss").div(means.loss, axis=0) - 1).abs()
        num = int(own.loss.between(own.low, own.high).sum())
        exact = stats.binomtest(num, len(own)).proportion_ci(0.95, "exact")
        steps = ", ".join(map(str, sorted(own.steps.unique())))
        yield {
            "runs": f"{name}, {len(own)} of {steps} steps",
            "error of the law": f"{errors.value.mean():.2%}",
            "of a power law through those alone": _beside(errors, "power"),
            "with the last difference": _beside(errors, "last"),
            "inside 90% intervals": f"{num / len(own):.0%} [{exact.low:.0%}, {exact.high:.0%}]",
        }


def _beside(errors: pd.DataFrame, name: str) -> str:
    """Return the mean error of a forecast, with the law's where not all runs have it."""
    known = errors[errors[name].notna()]
    if known.empty:
        return "-"
    law = "" if len(known) == len(errors) else f" (the law: {known.value.mean():.2%})"
    return f"{known[name].mean():.2%}{law}"


# ------------------------------------------------------------------------- forecasts that are kept


def _keep(
    folder: Path, outlook: Outlook, runs: pd.DataFrame, planned: pd.DataFrame, commit: str | None
) -> None:
    """Add to law.jsonl what planned runs are forecast to come to, unless it is there."""
    said = planned.join(outlook.losses(planned)).join(naive(runs, planned))
    law = outlook.law
    line = {
        "version": _VERSION,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "length": int(planned.length.iloc[0]),
        "law": {
            "alone": law.alone.formula,
            "taught": law.listening.formula,
            "size": law.size,
            "tokens": law.tokens,
            **law.numbers,
        },
        "num_runs": len(outlook.runs),
        "arms": json.loads(said.drop(columns="length").to_json(orient="records")),
    }
    path, when = folder / FORECASTS, ("when", "commit")
    with locks.take(folder / f".{FORECASTS}.lock", timeout_s=-1):
        if any(_but(each, when) == _but(line, when) for each in _lines(path)):
            return
        old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []  # damaged, too
        atomic.write_text(path, "\n".join([*old, json.dumps(line), ""]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the forecasts that a file holds; a damaged line is none."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError):
            yield json.loads(line)


def _but(line: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in names}


def _kept(
    folder: Path, runs: pd.DataFrame
) -> Iterator[tuple[dict[str, Any], list[dict[str, str]]]]:
    """Yield each forecast that was kept, and how the runs came out that began after it."""
    for said in _lines(folder / FORECASTS):
        if said.get("version") not in _READ:
            continue
        arms = pd.DataFrame(said["arms"]).set_index("arm")
        came = runs[(runs.length == said["length"]) & (runs.began.fillna("") >= said["when"])]
        of = came.join(arms[[*_FORECAST]].astype(float), on="arm", how="inner")
        yield said, list(_summed(of))


# --------------------------------------------------------------------------------------- a picture


def _drawn(outlook: Outlook) -> Figure:
    """Draw what was measured over what was forecast, and until when a teacher pays."""
    figure, (beside, until) = panels(2, width=5.6, height=4.6)
    runs, law = outlook.runs, outlook.law
    forecast = runs.loss / np.exp(outlook.choice.residuals)
    is_grown = runs.grown > 0
    for which, label, colour, marker in (
        (~is_grown & (runs.taught == 0), "alone", "black", "o"),
        (~is_grown & (runs.taught > 0), "taught", ORANGE, "^"),
        (is_grown, "grown", BLUE, "s"),
    ):
        look: dict[str, Any] = {"color": colour, "marker": marker, "alpha": 0.6}
        if which.any():
            beside.plot(
                *(forecast[which], runs.loss[which]),
                **{**look, "markersize": 4, "linestyle": "none", "label": label},
            )
    ends = [runs.loss.min(), runs.loss.max()]
    beside.plot(ends, ends, color=GREY, linewidth=1)
    note = "each length forecast without it"
    finish(beside, note, "held-out loss that was measured, nats", "that was forecast")

    teachers = runs.teacher.dropna()
    if len(teachers):
        low, high = teachers.min(), teachers.max()
        room = 0.5 * (high - low) or 0.3
        losses = np.linspace(low - room, high + room, 60)
        always = _always(runs).groupby("parameters")[["cost", "weight"]].mean()
        for (size, cost, weight), colour in zip(always.itertuples(), _COLOURS, strict=False):
            tokens = [law.until(size, Teacher(float(loss), weight), cost) for loss in losses]
            known = [(x, y) for x, y in zip(losses, tokens, strict=True) if 0 < y < math.inf]
            if known:
                label = f"{_short(float(size))} in its layers, {cost:.2f} times the FLOPs"
                until.plot(*zip(*known, strict=True), color=colour, label=label, linewidth=1.4)
        for loss in sorted(teachers.round(2).unique()):
            until.axvline(loss, color=GREY, linewidth=0.5, alpha=0.4)
        until.axhline(runs.tokens.max(), color=GREY, linestyle=":", label="the longest run")
        until.set_yscale("log")
        until.yaxis.set_major_formatter(EngFormatter())
    note = "below the line a teacher pays that is always listened to"
    finish(until, note, "tokens", "the teacher's held-out loss, nats")
    return figure
