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
    options = parser.parse_args(arguments)
    folder: Path = options.folder.expanduser()

    from rich.console import Console  # --help does not pay for the figures

    from dwt_cli.study.board import save_workspace
    from dwt_cli.study.report import print_report, write_report
    from dwt_cli.study.results import read_results

    try:
        results = read_results(folder)
        print_report(Console(), results, write_report(folder, results))
        if options.workspace:
            print(f"workspace: {save_workspace(results.study, options.workspace)}")
        return 0
    except UserError as error:
        print(f"dwt-report: {error}", file=sys.stderr)
    except OSError as error:
        print(f"dwt-report: {folder} cannot be written ({error.strerror})", file=sys.stderr)
    return MISTAKE
