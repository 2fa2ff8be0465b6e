"""The report of an evaluation: a table in the terminal, rows for a file and a dashboard."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from dwt_cli.evaluate.measurement import Results, Say, Score

_NOT_A_SHARE = ("loss", "perplexity", "bits")  # what has no such word is shown as per cent


def rows(moments: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Return every score of every moment as JSON values, with its measure and its moment."""
    return [
        {"moment": moment, "measure": measure, **dataclasses.asdict(score)}
        for moment, results in moments.items()
        for measure, scores in results.scores.items()
        for score in scores
    ]


def print_scores(console: Console, say: Say, title: str, moments: Mapping[str, Results]) -> None:
    """Print a row per task and metric, a column per moment, and below what a reader must know."""
    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for heading in (*moments, "examples", "seeds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("beside it", overflow="fold")
    by_row: dict[tuple[str, str], dict[str, Score]] = {}
    for moment, results in moments.items():
        for scores in results.scores.values():
            for score in (score for score in scores if not score.is_detail):
                by_row.setdefault((score.task, score.metric), {})[moment] = score
    for key, of_moment in by_row.items():
        last = list(of_moment.values())[-1]
        cells = [_cell(of_moment[m]) if m in of_moment else "" for m in moments]
        beside = [f"{name} {_number(last.metric, x)}" for name, x in last.baselines.items()]
        counts = f"{last.num_examples:,}", str(last.num_seeds)
        table.add_row(*key, *cells, *counts, ", ".join(beside))
    if by_row:
        console.print(table)
        say("± is the standard error: over seeds, or over examples where there is one seed")
    every = [score for of_moment in by_row.values() for score in of_moment.values()]
    for remark in dict.fromkeys(remark for score in every for remark in score.remarks):
        say(f"note: {remark}")


def problems(moments: Mapping[str, Results]) -> list[str]:
    """Return the lines for what could not be measured, each once."""
    return list(dict.fromkeys(line for results in moments.values() for line in results.problems))


def _cell(score: Score) -> str:
    number = _number(score.metric, score.value)
    return number if score.stderr is None else f"{number} ± {_number(score.metric, score.stderr)}"


def _number(metric: str, value: float) -> str:
    is_share = not any(word in metric for word in _NOT_A_SHARE)
    return f"{100 * value:.1f}" if is_share else f"{value:.3f}"
