"""A study's pictures: curves, schedules, teachers' quality, cost.

An arm looks alike in all of them, in colours that colour-blind readers tell apart and with lines
and markers that print in grey. Losses have a band over all seeds, differences the 95% interval.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dwt_cli.study.comparisons import against_alone, curves_apart, difference, headline
from dwt_cli.study.compute import Account
from dwt_cli.study.results import Results
from dwt_cli.track.curves import BLUE, GREEN, GREY, ORANGE, finish, panels, save

_LOOKS: dict[str, tuple[Any, ...]] = {
    # Okabe and Ito's colours, as in a run's curves; yellow is too light for a line
    "color": (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY),
    "linestyle": ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))),
    "marker": ("s", "^", "D", "v", "P", "X", "<", ">"),
}
_ALONE: dict[str, Any] = {"color": "black", "linestyle": "-", "marker": "o"}

_DPI = 130
_NATS = "nats per target"
_SHARE = "share of the run"


def draw(results: Results, folder: Path) -> dict[str, Path]:
    """Draw every picture for which there is anything to show. Return its PNG by its name."""
    drawn = {}
    for name, (drawing, title) in DRAWINGS.items():
        if figure := drawing(results):
            legend(figure)
            drawn[name] = folder / f"{name}.png"
            save(figure, f"{results.study.name}: {title}", drawn[name], size=11, dpi=_DPI)
    return drawn


def style(results: Results, arm: str) -> dict[str, Any]:
    """Return how an arm looks, in all pictures of a study."""
    if arm in results.stand_alone:
        return _ALONE
    number = results.compared.index(arm)
    return {key: looks[number % len(looks)] for key, looks in _LOOKS.items()}


def _panels(of: Sequence[Any]) -> tuple[Figure, dict[Any, Axes]]:
    """A panel for each, beside one another; the legend has its place below them."""
    figure, axes = panels(len(of), width=max(6.5 / len(of), 4.6), height=4.3)
    return figure, dict(zip(of, axes, strict=True))


def legend(figure: Figure) -> None:
    """One for all panels, each label once, below."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
        if legend := axes.get_legend():
            legend.remove()
    lines = [line for label in found for line in label.splitlines()]
    widest = 0.9 + 0.075 * max(map(len, lines), default=1)  # inches
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=max(1, min(len(found), int(figure.get_figwidth() / widest))),
        fontsize=8,
        frameon=False,
        handlelength=3.2,
    )


def _band(axes: Axes, band: pd.DataFrame, label: str, style: Mapping[str, Any]) -> None:
    """A line through ``middle`` over the index, with a band from ``low`` to ``high``."""
    x = band.index.to_numpy()
    axes.plot(x, band.middle, label=label, linewidth=1.4, markersize=4, **style)
    axes.fill_between(x, band.low, band.high, color=style["color"], alpha=0.13, linewidth=0)


def _interval(values: pd.Series) -> pd.Series:
    """Mean and the ends of its 95% interval, which are the mean below three values."""
    found = difference(values)
    assert found is not None
    ends = (found.mean, found.mean) if found.num_pairs < 3 else (found.low, found.high)
    return pd.Series([found.mean, *ends], ["middle", "low", "high"])


def _over_runs(
    results: Results,
    arms: Sequence[str],
    band_of: Callable[[str, int], pd.DataFrame],
    unit: str,
    note: str = "",
) -> Figure | None:
    """A panel for each length, with the band of each arm over the run."""
    bands = {(n, arm): band_of(arm, n) for n in results.study.lengths for arm in arms}
    bands = {key: band for key, band in bands.items() if len(band)}
    if not bands:
        return None
    figure, axes_of = _panels(list(dict.fromkeys(length for length, _ in bands)))
    for (length, arm), band in bands.items():
        _band(axes_of[length], band, arm, style(results, arm))
    for length, axes in axes_of.items():
        finish(axes, f"runs of {length} steps{note}", unit, _SHARE)
    return figure


def _curves(results: Results) -> Figure | None:
    """Held-out loss over the run, after its start."""
    curves, steps = results.curves, results.curves.groupby(["arm", "length"]).steps.unique()

    def band_of(arm: str, length: int) -> pd.DataFrame:
        of_arm = curves[(curves.arm == arm) & (curves.length == length) & (curves.step > 0)]
        if results.baseline and arm in results.stand_alone:  # others are as long as they may be
            of_arm = of_arm[of_arm.steps.isin(steps.get((results.baseline, length), []))]
        by_seed = of_arm.pivot(index="share", columns="seed", values="loss").dropna(axis="columns")
        return by_seed.agg(["mean", "min", "max"], axis="columns").set_axis(
            ["middle", "low", "high"], axis="columns"
        )

    return _over_runs(results, list(results.study.arms), band_of, f"held-out loss, {_NATS}")


def _progress(results: Results) -> Figure | None:
    """The same, as the difference from the stand-alone student."""
    base = results.baseline
    if base is None:
        return None

    def band_of(arm: str, length: int) -> pd.DataFrame:
        by_seed = curves_apart(results, arm, base, length)
        return by_seed.apply(_interval, axis="columns")

    unit, note = f"held-out loss minus {base}'s, nats", "; below 0 is better"
    figure = _over_runs(results, results.compared, band_of, unit, note)
    for axes in figure.axes if figure else ():
        axes.axhline(0, color="black", linewidth=1)
        # the panel is for the lines: a band of few seeds may be wider than all else
        middles = [y for line in axes.lines for y in np.asarray(line.get_ydata(), float)]
        low, high = axes.get_ylim()
        room = 0.75 * (max(middles) - min(middles)) or high - low
        axes.set_ylim(max(low, min(middles) - room), min(high, max(middles) + room))
    return figure


def _schedules(results: Results) -> Figure | None:
    """Both loss weights; arms that share a schedule share a line."""
    runs = results.runs[results.runs.weights.astype(bool)]
    runs = runs[~runs.arm.isin(results.stand_alone - {results.baseline})]
    longest = runs.sort_values(["place", "length", "seed"], ascending=[True, False, True])
    by_weights = longest.drop_duplicates("arm").groupby("weights", sort=False).arm.agg(list)
    if not len(by_weights):
        return None
    figure, axes_of = _panels(["hard", "soft"])
    for number, (weights, arms) in enumerate(by_weights.items()):
        every = max(1, len(weights) // 8)
        look = {
            "label": textwrap.fill(", ".join(arms), 60),
            # those below stay visible
            "linewidth": 1.2 + 2.4 * (1 - (number + 1) / len(by_weights)),
            "markersize": 4.5,
            "markevery": (every * number // len(by_weights), every),
            **style(results, arms[0]),
        }
        shares, hard, soft = zip(*weights, strict=True)
        axes_of["hard"].plot(shares, hard, **look)
        axes_of["soft"].plot(shares, soft, **look)
    for name, axes in axes_of.items():
        top = axes.get_ylim()[1]
        axes.set_ylim(-0.04 * top, 1.04 * top)
        finish(axes, f"weight of the {name} loss, alpha_{name}", "weight", _SHARE)
    return figure


def _side_by_side(cells: pd.DataFrame) -> pd.Series:
    """Return places on an axis of leads: cells of one length and teacher are beside one another."""
    same = cells.groupby(["length", cells.lead.round(3)]).arm
    place = same.cumcount() - (same.transform("size") - 1) / 2
    return cells.lead + 0.03 * place * cells.groupby("length").lead.transform(np.ptp).clip(
        lower=0.2
    )


def _finish_leads(axes: Axes, title: str, unit: str, base: str | None) -> None:
    """Finish axes of leads, which have a line where a teacher is no longer weak."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, (low + high) / 2 - 0.1), max(high, (low + high) / 2 + 0.1))
    if axes.get_xlim()[1] > 0:
        axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
    axes.locator_params(axis="x", nbins=6)
    finish(axes, title, unit, f"lead: {base}'s final loss minus the teacher's, nats")


def _teacher_quality(results: Results) -> Figure | None:
    """What a teacher is worth to its student, by how good it is itself."""
    beside = against_alone(results).sort_values("length", kind="stable")
    cells = beside.groupby(["length", "arm"], sort=False)
    cells = cells.agg(gap=("gap", lambda gaps: gaps.dropna().tolist()), lead=("lead", "mean"))
    cells = cells[cells.gap.astype(bool)].dropna().reset_index()
    if cells.empty:
        return None
    figure, axes_of = _panels(cells.length.unique())
    for each in cells.assign(x=_side_by_side(cells)).itertuples():
        gain = _interval(-pd.Series(each.gap))
        look = {**style(results, each.arm), "linestyle": "none", "capsize": 3, "markersize": 6}
        bar = [[gain.middle - gain.low], [gain.high - gain.middle]]
        axes_of[each.length].errorbar(each.x, gain.middle, yerr=bar, label=each.arm, **look)
    base = results.baseline
    for length, axes in axes_of.items():
        axes.axhline(0, color="black", linewidth=1)
        title = f"runs of {length} steps; above 0 the teacher helps"
        _finish_leads(axes, title, f"gain over {base}, {_NATS}", base)
    return figure


def _headline(results: Results) -> Figure | None:
    """What an arm takes to the stand-alone student's final loss, by its teacher's lead."""
    found = headline(results).replace(np.inf, np.nan).dropna(subset=["lead", "share"])
    if found.empty:
        return None
    figure, axes_of = _panels(found.length.unique())
    found = found.assign(x=_side_by_side(found), place=found.arm.map(results.compared.index))
    highest = 1.1 * max(1.0, found.share.max())
    for each in found.sort_values("place").itertuples():
        look = {**style(results, each.arm), "linestyle": "none", "markersize": 6, "capsize": 3}
        bar: Any = 0.07 * highest  # of an arrow
        if not each.side:
            exact = [cost.at_most for cost in each.costs[Account.FORWARD]]
            middle, low, high = _interval(pd.Series(exact))
            bar = [[middle - low], [high - middle]]
        ends = {"uplims": each.side < 0, "lolims": each.side > 0}
        axes_of[each.length].errorbar(each.x, each.share, bar, label=each.arm, **ends, **look)
    for length, axes in axes_of.items():
        axes.axhline(1, color="black", linewidth=1)
        axes.axhline(0.4, color=GREY, linewidth=1, linestyle="--")
        axes.set_ylim(0, highest)
        axes.yaxis.set_major_locator(ticker.MultipleLocator(0.2 if highest < 3 else 1))
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
        base = results.baseline
        _finish_leads(axes, f"{base} of {length} steps", f"share of {base}'s FLOPs", base)
    return figure


def _cost(results: Results) -> Figure | None:
    """Final loss over total FLOPs, in each account, with the stand-alone student's line."""
    if results.baseline is None:
        return None
    figure, axes_of = _panels(list(Account))
    for account, axes in axes_of.items():
        alone = _by_flops(results, results.stand_alone, account)
        _band(axes, alone, "the stand-alone student", _ALONE)
        for arm in results.compared:
            means = _by_flops(results, {arm}, account)
            if len(means):
                line = means.assign(low=means.middle, high=means.middle)
                _band(axes, line, arm, style(results, arm))
        axes.set_xscale("log")
        decades = np.ptp(np.log10(axes.get_xlim()))
        subs = (1, 1.5, 2, 3, 4, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2.5 else (1,)
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.xaxis.set_major_formatter(ticker.EngFormatter())
        finish(axes, account.value, "held-out loss at the end, nats", "FLOPs of one run")
    return figure


def _by_flops(results: Results, arms: set[str], account: Account) -> pd.DataFrame:
    """Mean FLOPs -> mean, smallest and largest final loss, for every number of steps."""
    runs = results.runs[results.runs.arm.isin(arms)].dropna(subset=account.column)
    losses = runs.groupby("steps").heldout_loss.agg(middle="mean", low="min", high="max")
    return losses.set_index(runs.groupby("steps")[account.column].mean())


# each is drawn if there is anything to show; its title
DRAWINGS: dict[str, tuple[Callable[[Results], Figure | None], str]] = {
    "headline": (_headline, "FLOPs to the stand-alone student's final loss"),
    "teacher_quality": (_teacher_quality, "how good the teacher is, and what it is worth"),
    "curves": (_curves, "learning curves"),
    "progress": (_progress, "distance from the stand-alone student over the run"),
    "schedules": (_schedules, "loss weights over the run"),
    "cost": (_cost, "what FLOPs buy"),
}
