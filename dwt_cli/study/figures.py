"""A study's pictures: curves, schedules, teachers' quality, cost.

An arm looks alike in all of them, in colours that colour-blind readers tell apart and with lines
and markers that print in grey. Losses have a band over all seeds, differences the 95% interval.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from dwt_cli.study.comparisons import (
    BySeed,
    common,
    curves_apart,
    losses_apart,
    of_full_length,
    teachers_apart,
)
from dwt_cli.study.compute import Account
from dwt_cli.study.results import Results
from dwt_cli.study.statistics import difference
from dwt_cli.track.curves import BLUE, GREEN, GREY, ORANGE, finish

# Okabe and Ito's colours, as in a run's curves; yellow is too light for a line
_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY)
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">")
_ALONE: dict[str, Any] = {"color": "black", "linestyle": "-", "marker": "o"}

_DPI = 130
_NATS = "nats per target token"
_SHARE = "share of the run"


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows, in words that stand alone."""

    path: Path
    title: str
    caption: str


Pictures = dict[str, Picture]


def draw(results: Results, folder: Path) -> Pictures:
    """Every picture for which there is anything to show, by name; NAME.png in `folder`."""
    matplotlib.use("Agg")
    drawn = {}
    for name, (drawing, title, caption) in _DRAWINGS.items():
        figure = drawing(results)
        if figure is not None:
            figure.suptitle(f"{results.study.name}: {title}", fontsize=11)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=_DPI)
            drawn[name] = Picture(path, title, caption)
    return drawn


def _style(results: Results, arm: str) -> dict[str, Any]:
    if arm in results.stand_alone:
        return _ALONE
    number = results.compared.index(arm)
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def _panels(of: Sequence[Any]) -> tuple[Figure, dict[Any, Axes]]:
    """A panel for each, beside one another; the legend has its place below them."""
    figure = Figure(figsize=(max(6.5, 4.6 * len(of)), 4.3), layout="constrained")
    axes = figure.subplots(1, len(of), squeeze=False)[0]
    return figure, dict(zip(of, axes, strict=True))


def _legend(figure: Figure) -> None:
    """One for all panels, each label once, below."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
        if legend := axes.get_legend():
            legend.remove()
    widest = 0.9 + 0.075 * max((len(label) for label in found), default=1)  # inches
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=max(1, min(len(found), int(figure.get_figwidth() / widest))),
        fontsize=8,
        frameon=False,
        handlelength=3.2,
    )


def _interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95% interval, which are the mean where there is none."""
    found = difference(list(values))
    assert found is not None
    if found.low is None or found.high is None:
        return found.mean, found.mean, found.mean
    return found.mean, found.low, found.high


def _range(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean, smallest and largest."""
    found = list(values)
    return fmean(found), min(found), max(found)


def _band(
    axes: Axes,
    by_x: Mapping[float, tuple[float, float, float]],
    label: str,
    style: Mapping[str, Any],
) -> None:
    """A line through (middle, low, high) with a band from low to high."""
    if by_x:
        middle, low, high = zip(*by_x.values(), strict=True)
        axes.plot(list(by_x), middle, label=label, linewidth=1.4, markersize=4, **style)
        axes.fill_between(list(by_x), low, high, color=style["color"], alpha=0.13, linewidth=0)


def _limit(axes: Axes, middles: Sequence[float]) -> None:
    """The panel is for the middles: an interval of two seeds may be wider than all else."""
    low, high = axes.get_ylim()
    room = 0.75 * (max(middles) - min(middles)) or high - low
    axes.set_ylim(max(low, min(middles) - room), min(high, max(middles) + room))


# ----------------------------------------------------------------------------------- over a run


def _curves(results: Results) -> Figure | None:
    """Held-out loss over the run, after its start."""
    found = {length: _curves_of(results, length) for length in results.study.lengths}
    found = {length: arms for length, arms in found.items() if arms}
    if not found:
        return None
    figure, panels = _panels(list(found))
    for length, arms in found.items():
        for arm, by_share in arms.items():
            points = {x: _range(values) for x, values in common(by_share).items()}
            _band(panels[length], points, arm, _style(results, arm))
        finish(panels[length], f"runs of {length} steps", f"held-out loss, {_NATS}", _SHARE)
    _legend(figure)
    return figure


def _curves_of(results: Results, length: int) -> dict[str, dict[float, BySeed]]:
    found: dict[str, dict[float, BySeed]] = {}
    for arm in results.study.arms:
        by_share: dict[float, BySeed] = {}
        for seed, cell in of_full_length(results, arm, length).items():
            for step, loss in cell.curve:
                if step > 0:
                    by_share.setdefault(step / cell.steps, {})[seed] = loss
        if by_share:
            found[arm] = dict(sorted(by_share.items()))
    return found


def _progress(results: Results) -> Figure | None:
    """The same, as the difference from the stand-alone student."""
    base = results.baseline
    if base is None:
        return None
    found: dict[int, dict[str, dict[float, list[float]]]] = {}
    for length in results.study.lengths:
        for arm in results.compared:
            if by_share := common(curves_apart(results, arm, base, length)):
                found.setdefault(length, {})[arm] = by_share
    if not found:
        return None
    figure, panels = _panels(list(found))
    for length, arms in found.items():
        axes, middles = panels[length], [0.0]
        for arm, by_share in arms.items():
            points = {
                share: _interval(gaps if len(gaps) > 2 else [fmean(gaps)])
                for share, gaps in by_share.items()
            }
            middles += [middle for middle, _, _ in points.values()]
            _band(axes, points, arm, _style(results, arm))
        axes.axhline(0, color="black", linewidth=1)
        _limit(axes, middles)
        title = f"runs of {length} steps; below 0 is better"
        finish(axes, title, f"held-out loss minus {base}'s, nats", _SHARE)
    _legend(figure)
    return figure


def _schedules(results: Results) -> Figure | None:
    """Both loss weights; arms that share a schedule share a line."""
    named: dict[tuple[tuple[float, float, float], ...], list[str]] = {}
    for arm in results.study.arms:
        cells = [cell for cell in results.cells if cell.job.arm == arm and cell.weights]
        if cells and arm not in results.stand_alone - {results.baseline}:
            longest = max(cells, key=lambda cell: (cell.job.length, -cell.job.seed))
            named.setdefault(tuple(longest.weights), []).append(arm)
    if not named:
        return None
    figure, panels = _panels(["hard", "soft"])
    for number, (weights, arms) in enumerate(named.items()):
        every = max(1, len(weights) // 8)
        look = {
            "label": ", ".join(arms),
            "linewidth": 1.2 + 2.4 * (1 - (number + 1) / len(named)),  # those below stay visible
            "markersize": 4.5,
            "markevery": (every * number // len(named), every),
            **_style(results, arms[0]),
        }
        shares, hard, soft = zip(*weights, strict=True)
        panels["hard"].plot(shares, hard, **look)
        panels["soft"].plot(shares, soft, **look)
    for name, axes in panels.items():
        top = axes.get_ylim()[1]
        axes.set_ylim(-0.04 * top, 1.04 * top)
        finish(axes, f"weight of the {name} loss, alpha_{name}", "weight", _SHARE)
    _legend(figure)
    return figure


# ------------------------------------------------------------------------------------ at the end


def _teacher_quality(results: Results) -> Figure | None:
    """What a teacher is worth to its student, by how good it is itself."""
    base = results.baseline
    if base is None:
        return None
    found: dict[int, dict[str, tuple[float, list[float]]]] = {}
    for length in results.study.lengths:
        for arm in results.compared:
            teachers = teachers_apart(results, arm, length)
            gaps = losses_apart(results, arm, base, length)
            if teachers and gaps:
                gains = [-gap for gap in gaps.values()]
                found.setdefault(length, {})[arm] = fmean(teachers.values()), gains
    if not found:
        return None
    figure, panels = _panels(list(found))
    for length, arms in found.items():
        axes, middles = panels[length], [0.0]
        places = _apart([x for x, _ in arms.values()])
        for place, (arm, (_, gains)) in zip(places, arms.items(), strict=True):
            middle, low, high = _interval(gains)
            middles.append(middle)
            look = {**_style(results, arm), "linestyle": "none", "capsize": 3, "markersize": 6}
            bar = [[middle - low], [high - middle]]
            axes.errorbar(place, middle, yerr=bar, label=arm, **look)
        axes.axhline(0, color="black", linewidth=1)
        if min(places) < 0:
            axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
        _limit(axes, middles)
        axes.locator_params(axis="x", nbins=6)
        finish(
            axes,
            f"runs of {length} steps; above 0 the teacher helps",
            f"gain over {base}, {_NATS}",
            f"the teacher's own held-out loss minus {base}'s, nats",
        )
    _legend(figure)
    return figure


def _apart(places: Sequence[float]) -> list[float]:
    """Places along an axis; those that would hide one another are moved a little to the right."""
    step = 0.02 * ((max(places) - min(places)) or 1.0)
    moved = list(places)
    order = sorted(range(len(places)), key=places.__getitem__)
    for before, index in pairwise(order):
        moved[index] = max(moved[index], moved[before] + step)
    return moved


def _cost(results: Results) -> Figure | None:
    """Final loss over total FLOPs, in each account, with the stand-alone student's line."""
    if results.baseline is None:
        return None
    figure, panels = _panels(list(Account))
    for account, axes in panels.items():
        alone = _by_flops(results, results.stand_alone, account)
        _band(axes, alone, "the stand-alone student", _ALONE)
        for arm in results.compared:
            means = {x: (y, y, y) for x, (y, _, _) in _by_flops(results, {arm}, account).items()}
            _band(axes, means, arm, _style(results, arm))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(EngFormatter())
        finish(axes, account.value, "held-out loss at the end, nats", "FLOPs of one run")
    _legend(figure)
    return figure


def _by_flops(
    results: Results, arms: set[str], account: Account
) -> dict[float, tuple[float, float, float]]:
    """Mean FLOPs -> mean, smallest and largest final loss, for every number of steps."""
    by_steps: dict[int, list[tuple[float, float]]] = {}
    for cell in results.cells:
        cost = cell.flops(account)
        if cell.job.arm in arms and cost is not None:
            by_steps.setdefault(cell.steps, []).append((cost, cell.loss))
    return {
        fmean(cost for cost, _ in points): _range(loss for _, loss in points)
        for _, points in sorted(by_steps.items())
    }


_DRAWINGS: dict[str, tuple[Callable[[Results], Figure | None], str, str]] = {
    "teacher_quality": (
        _teacher_quality,
        "how good the teacher is, and what it is worth",
        "Gain over the stand-alone student (how much lower held-out loss ends) against the "
        "teacher's own distance from it. Bars: 95% intervals over seeds, cut where they leave the "
        "panel; arms that share a teacher are drawn side by side. The paper's figure 2 asks the "
        "same of GLUE.",
    ),
    "curves": (
        _curves,
        "learning curves",
        "Held-out loss over the run, from the first evaluation after the start: mean over seeds; "
        "bands from the best to the worst seed.",
    ),
    "progress": (
        _progress,
        "distance from the stand-alone student over the run",
        "Held-out loss minus that of the stand-alone student of the same seed at the same step, "
        "from the first evaluation after the start; bands: 95% intervals over seeds, from "
        "three seeds on, cut where they leave the panel. The paper's figures 3 and 4 show GLUE "
        "tasks over pre-training.",
    ),
    "schedules": (
        _schedules,
        "loss weights over the run",
        "The weights of the hard and the soft loss as they were logged, in each arm's longest "
        "run; arms that share a schedule share a line.",
    ),
    "cost": (
        _cost,
        "what FLOPs buy",
        "Held-out loss at the end of runs of each length, over their FLOPs in three accounts. "
        "Below the black line an arm beats the stand-alone student of equal FLOPs. Means over "
        "seeds; the stand-alone student's band is from its best to its worst seed.",
    ),
}
