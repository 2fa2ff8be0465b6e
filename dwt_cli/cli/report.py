"""``dwt-report``: the report of a study."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dwt_cli.base.errors import MISTAKE, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report, print the verdicts and where everything is: ``dwt-report``."""
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
    parser.add_argument(
        "--law",
        type=Path,
        nargs="*",
        metavar="STUDY_DIR",
        help="fit one law of size, length and teacher to its runs and those of other studies, too: "
        "law.html",
    )
    parser.add_argument(
        "--ahead",
        type=int,
        metavar="STEPS",
        help="with --law: forecast its arms at a greater length, and keep that in law.jsonl",
    )
    options = parser.parse_args(arguments)
    folder: Path = options.folder.expanduser()

    from rich.console import Console  # --help does not pay for the figures

    from dwt_cli.study.board import save_workspace
    from dwt_cli.study.law_page import write_law
    from dwt_cli.study.report import print_report, write_report
    from dwt_cli.study.results import read_results

    try:
        if options.ahead is not None and options.law is None:
            raise UserError(f"--ahead={options.ahead}: it is what a law forecasts; add --law")
        results = read_results(folder)
        print_report(Console(), results, write_report(folder, results))
        if options.law is not None:
            others = [read_results(path.expanduser()) for path in options.law]
            commit = _commit() if options.ahead else None
            for path in write_law(folder, [results, *others], options.ahead, commit):
                print(f"{path.suffix.lstrip('.')}: {path}")
        if options.workspace:
            print(f"workspace: {save_workspace(results.study, options.workspace)}")
        return 0
    except UserError as error:
        print(f"dwt-report: {error}", file=sys.stderr)
    except OSError as error:
        print(f"dwt-report: {folder} cannot be written ({error.strerror})", file=sys.stderr)
    return MISTAKE


def _commit() -> str:
    from dwt_cli.base.machine import commit  # which loads torch

    return commit()
