"""A study's verdicts on the screen."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dwt_cli.study import tables
from dwt_cli.study.comparisons import judge
from dwt_cli.study.results import Results


def print_report(console: Console, results: Results, paths: Sequence[Path]) -> None:
    """The verdicts, what is missing, and the places."""
    study = results.study
    judged = judge(results)
    if judged:
        table = Table(title=f"{study.name}: {study.question}", title_justify="left")
        for heading in ("claim", "length", "difference [95%]", "verdict"):
            table.add_column(heading)
        for each in judged:
            row = (str(each.length), tables.interval(each.found), each.verdict)
            table.add_row(each.claim.claim, *row)
        console.print(table)
    lines = [] if judged else [f"{study.name} tests no claim: there are no verdicts"]
    lines.append(f"{len(results.cells)} of {len(study.jobs)} runs are in the report")
    if results.left_out:
        lines.append("the report says what was left out, and why")
    lines += [f"{path.suffix.lstrip('.')}: {path}" for path in paths]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
