"""``dwt-report``: the report of a study."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dwt_cli.errors import UserError
from dwt_cli.study import tables
from dwt_cli.study.board import save_workspace
from dwt_cli.study.comparisons import judge
from dwt_cli.study.report import write_report
from dwt_cli.study.results import Results, read_results

_MISTAKE = 2


def report_main(arguments: Sequence[str] | None = None) -> int:
    """Write the report, print the verdicts and where everything lies."""
    parser = argparse.ArgumentParser(
        "dwt-report", description="Statistics, figures and a report of a study, finished or not."
    )
    parser.add_argument(
        "folder", type=Path, metavar="STUDY_DIR", help="as runs/studies/teacher_quality"
    )
    parser.add_argument(
        "--workspace",
        metavar="ENTITY/PROJECT",
        help="make a workspace on W&B, with panels for each factor, where the runs were sent",
    )
    options = parser.parse_args(arguments)
    folder: Path = options.folder.expanduser()
    try:
        results = read_results(folder)
        print_report(Console(), results, write_report(folder, results))
        if options.workspace:
            print(f"workspace: {save_workspace(results.study, options.workspace)}")
    except UserError as error:
        print(f"dwt-report: {error}", file=sys.stderr)
        return _MISTAKE
    except OSError as error:
        print(f"dwt-report: {folder} cannot be written ({error.strerror})", file=sys.stderr)
        return _MISTAKE
    return 0


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
