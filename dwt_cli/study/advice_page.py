"""An advice in print: the terminal's lines, and advice.html with its picture."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Column, Table

from dwt_cli.base import atomic
from dwt_cli.base.templates import filled
from dwt_cli.study.advice import A_STEP, ALONE, Advice, Forecast, answer, remarks, table
from dwt_cli.study.figures import legend, style
from dwt_cli.study.report import page
from dwt_cli.study.results import Results
from dwt_cli.track.curves import GREY, panels, save
from dwt_cli.track.curves import finish as finish_axes
from dwt_cli.track.display import plain_line

_PICTURE = "advice.png"
_PAST = 4.0  # budgets, to which the law is drawn


def print_advice(console: Console, advice: Advice, command: str, paths: list[Path]) -> None:
    """Print what was measured, the answer, the command that does it, and where the page is."""
    say, rows = plain_line(console), table(advice)
    short = [{name: row[name] for name in row if name != A_STEP} for row in rows]
    print_rows(console, short, f"what a {advice.source} says of {advice.budget.text}")
    say(answer(advice))
    say(f"\n  {command}\n")
    for line in remarks(advice):
        say(f"- {line}")
    for path in paths:
        say(f"{path.suffix.lstrip('.')}: {path}")


def print_rows(console: Console, rows: list[dict[str, str]], title: str) -> None:
    """Print rows as a table; one that lacks a column has nothing there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = Table(
        *(Column(name, overflow="fold") for name in names), title=title, title_justify="left"
    )
    for row in rows:
        shown.add_row(*(row.get(name, "") for name in names))
    console.print(shown)


def write_page(
    folder: Path, results: Results, advice: Advice, commands: Mapping[str, str]
) -> list[Path]:
    """Write advice.md, advice.html and the picture into the ladder's folder; return their paths.

    commands: of the whole run of each arm.
    """
    title = f"Does a teacher pay with {advice.budget.text}?"
    with atomic.needing_room(folder):
        draw(results, advice, title, folder / _PICTURE)
    best = advice.best.arm
    text = filled(
        __package__,
        "advice.md.j2",
        title=title,
        answer=answer(advice),
        command=commands[best],
        others=[command for arm, command in commands.items() if arm != best],
        picture=_PICTURE,
        remarks=list(remarks(advice)),
        rows=table(advice),
        seeds=", ".join(map(str, advice.seeds)),
        budget=advice.budget.text,
        is_recorded=advice.is_recorded,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    paths = [folder / "advice.html", folder / "advice.md"]
    atomic.write_text(paths[0], page(text, title, folder))
    atomic.write_text(paths[1], text)
    return [*paths, folder / _PICTURE]


def draw(results: Results, advice: Advice, title: str, picture: Path) -> None:
    """Draw the losses of all arms, and what they are apart from the student alone."""
    figure, (losses, apart) = panels(2, width=6, height=4.6)
    alone, ladder = advice.forecasts[0], advice.ladder
    first = min([ladder.begins, alone.steps / _PAST, *ladder.lengths])
    flops = np.geomspace(first, alone.steps * _PAST, 200) * alone.cost.own
    for a, each in enumerate(advice.forecasts):
        look = style(results, each.arm)
        line = {**look, "marker": "", "linewidth": 1.4}
        dots = {**look, "linestyle": "none", "markersize": 4, "alpha": 0.7}
        places = np.repeat([each.cost.flops(n) for n in ladder.lengths], ladder.losses.shape[-1])
        along = flops[flops >= each.cost.flops(first)]
        curve = [ladder.law.loss(a, each.cost.steps(x)) for x in along]
        losses.plot(along, curve, label=each.arm, **line)
        losses.plot(places, ladder.losses[a].ravel(), **dots)
        _forecast(losses, advice, each, each.loss.value, (each.loss.low, each.loss.high), look)
        if each.arm != ALONE:
            gaps = [advice.difference(a, ladder.law, alone.cost.steps(x)) for x in along]
            apart.plot(along, gaps, label=each.arm, **line)
            paired = (ladder.losses[a] - ladder.losses[0]).ravel()
            apart.plot(places, paired, **dots)
            ends = (each.apart.low, each.apart.high)
            _forecast(apart, advice, each, each.apart.value, ends, look)
    if advice.teacher_loss is not None:
        losses.axhline(advice.teacher_loss, color=GREY, linestyle=":", label="the teacher")
    apart.axhline(0, color="black", linewidth=1)
    for axes in (losses, apart):
        axes.set_xscale("log")
        axes.axvline(advice.budget.flops, color=GREY, linewidth=1, label="the budget")
    below = "FLOPs of a run, with the teacher's passes"
    notes = "final held-out loss, forecast", "minus alone's, at equal FLOPs"
    if not advice.is_recorded:
        notes = (
            "final held-out loss, measured and forecast",
            "minus alone's: paired runs at equal steps, the law at equal FLOPs",
        )
    finish_axes(losses, notes[0], "nats", below)
    finish_axes(apart, notes[1], "nats; below 0 the teacher pays", below)
    legend(figure)
    save(figure, title, picture, size=11, dpi=130)


def _forecast(
    axes: Axes,
    advice: Advice,
    each: Forecast,
    value: float,
    ends: tuple[float, float],
    look: Mapping[str, object],
) -> None:
    """Draw a forecast at the budget; arms stand beside one another."""
    place = advice.budget.flops * 1.12 ** (advice.forecasts.index(each) - 1)
    bar = None if np.isnan(ends[0]) else [[value - ends[0]], [ends[1] - value]]
    drawn = {"color": look["color"], "marker": look["marker"], "markersize": 6, "capsize": 3}
    axes.errorbar(place, value, bar, linestyle="none", **drawn)  # type: ignore[arg-type]
