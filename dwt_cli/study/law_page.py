"""A law in print: law.md and law.html with a picture; and law.jsonl, what it has forecast."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy import stats

from dwt_cli.base import atomic
from dwt_cli.base.errors import UserError
from dwt_cli.base.templates import filled
from dwt_cli.study.figures import legend
from dwt_cli.study.law import Choice, Law, choices, points, simplest
from dwt_cli.study.outlook import CONFIDENCE, Outlook, longer, longest_left_out, naive
from dwt_cli.study.report import page
from dwt_cli.study.results import Results
from dwt_cli.track.curves import BLUE, GREEN, GREY, ORANGE, finish, panels, save
from dwt_cli.track.metrics import read_lines

FORECASTS = "law.jsonl"
_VERSION = 1  # lines of another are kept, and not read
_FORECAST = ("value", "low", "high", "power", "kept")
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
    tried = choices(runs)
    outlook = Outlook(simplest(tried), runs)
    own = runs[runs.arm.isin(studies[0].study.arms)]
    if ahead is not None:
        _keep(folder, outlook, own, ahead, commit)
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
    found = {}
    for name, value in outlook.law.numbers.items():
        ends = np.quantile([law.numbers[name] for law in outlook.drawn], _ends())
        found[name] = f"{value:.3g} [{ends[0]:.3g}, {ends[1]:.3g}]"
    return found


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
    taught = runs[(runs.taught > 0.99) & (runs.grown == 0)]
    for _, own in taught.groupby(["parameters", taught.teacher.round(1)]):
        size, teacher, dearer = own[["parameters", "teacher", "dearer"]].mean()
        drawn = pd.DataFrame([_worth(law, size, teacher, dearer) for law in outlook.drawn])
        low, high = (drawn.quantile(end, interpolation="nearest") for end in _ends())
        yield {"student": _short(size), "the teacher's loss": f"{teacher:.2f}"} | {
            name: f"{_tokens(value)} [{_tokens(low[name])}, {_tokens(high[name])}]"
            for name, value in _worth(outlook.law, size, teacher, dearer).items()
        }


def _worth(law: Law, size: float, teacher: float, dearer: float) -> dict[str, float]:
    """Return what a teacher is worth by a law, in tokens."""
    level = law.level(size, teacher)
    start = {"saves as a start": law.numbers["s"] * level} if "s" in law.numbers else {}
    return {
        "alone as good after": level,
        "saves, let go of in time": law.saved(size, teacher),
        **start,
        "heard always, pays up to": law.until(size, teacher),
        "the same at equal FLOPs": law.until(size, teacher, dearer),
    }


def _tokens(number: float) -> str:
    return "any" if math.isinf(number) else _short(number) if number else "none"


def _held_out(runs: pd.DataFrame) -> list[dict[str, str]]:
    """Return how the longest runs were forecast by the others; a row with the reason if not."""
    try:
        found = longest_left_out(runs)
    except UserError as error:
        return [{"": f"not tried: {error}"}]
    return list(_summed(found))


def _summed(found: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield errors and coverage of runs that are forecast: all, and by what they do.

    Errors are of means over seeds, by arm and length, and their absolute values' mean.
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
        means = own.groupby(["arm", "length"])[["loss", "value", "power", "kept"]].mean()
        errors = (means.drop(columns="loss").div(means.loss, axis=0) - 1).abs().mean()
        num = int(own.loss.between(own.low, own.high).sum())
        exact = stats.binomtest(num, len(own)).proportion_ci(0.95, "exact")
        lengths = ", ".join(map(str, sorted(own.length.unique())))
        yield {
            "runs": f"{name}, {len(own)} of {lengths} steps",
            "error of the law": f"{errors.value:.2%}",
            "of a power law through those alone": _share(errors.power),
            "with the last difference kept": _share(errors.kept),
            "inside 90% intervals": (f"{num / len(own):.0%} [{exact.low:.0%}, {exact.high:.0%}]"),
        }


def _share(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:.2%}"


def _ends() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


# ------------------------------------------------------------------------- forecasts that are kept


def _keep(
    folder: Path, outlook: Outlook, runs: pd.DataFrame, steps: int, commit: str | None
) -> None:
    """Add to law.jsonl what runs of so many steps are forecast to come to."""
    planned = longer(runs, steps)
    said = planned.join(outlook.losses(planned)).join(naive(runs, planned))
    law = outlook.law
    line = {
        "version": _VERSION,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "length": steps,
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
    before: list[dict[str, Any]] = list(read_lines(folder / FORECASTS))
    text = "".join(json.dumps(each) + "\n" for each in (*before, line))
    atomic.write_text(folder / FORECASTS, text)


def _kept(
    folder: Path, runs: pd.DataFrame
) -> Iterator[tuple[dict[str, Any], list[dict[str, str]]]]:
    """Yield each forecast that was kept, and how the runs came out that began after it."""
    for line in read_lines(folder / FORECASTS):
        said: dict[str, Any] = dict(line)
        if said.get("version") != _VERSION:
            continue
        arms = pd.DataFrame(said["arms"]).set_index("arm")
        came = runs[(runs.length == said["length"]) & (runs.began.fillna("") >= said["when"])]
        of = came.join(arms[list(_FORECAST)].astype(float), on="arm", how="inner")
        yield said, list(_summed(of))


# --------------------------------------------------------------------------------------- a picture


def _drawn(outlook: Outlook) -> Figure:
    """Draw what was measured over what was forecast, and until when a teacher pays."""
    figure, (beside, until) = panels(2, width=5.6, height=4.6)
    runs, law = outlook.runs, outlook.law
    forecast = runs.loss / np.exp(outlook.choice.missed)
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
        for size, colour in zip(sorted(runs.parameters.unique()), _COLOURS, strict=False):
            tokens = [law.until(float(size), float(loss)) for loss in losses]
            known = [(x, y) for x, y in zip(losses, tokens, strict=True) if 0 < y < math.inf]
            if known:
                label = f"{_short(float(size))} in its layers"
                until.plot(*zip(*known, strict=True), color=colour, label=label, linewidth=1.4)
        for loss in sorted(teachers.round(2).unique()):
            until.axvline(loss, color=GREY, linewidth=0.5, alpha=0.4)
        until.axhline(runs.tokens.max(), color=GREY, linestyle=":", label="the longest run")
        until.set_yscale("log")
        until.yaxis.set_major_formatter(EngFormatter())
    note = "a teacher that is always listened to pays below the line"
    finish(until, note, "tokens", "the teacher's held-out loss, nats")
    return figure
