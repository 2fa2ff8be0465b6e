"""``dwt-runs``: a list of runs. Imports no torch."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dwt_cli.base import locks
from dwt_cli.base.atomic import read_json
from dwt_cli.cli.tables import print_table, terminal_width
from dwt_cli.recipe.record import LOCK
from dwt_cli.track.metrics import newest, read_settings
from dwt_cli.track.summary import heldout_masks


@dataclass(frozen=True)
class ListedRun:
    """A run as its directory shows it, while it is at work or afterwards.

    state: running | interrupted | failed | finished, or dead: its status is running, its process
    is no longer there. is_older: version 0.2 masked its held-out text by ratios of its own, so that
    it is not found again. step, total: None where nothing is known. loss: the newest held-out one.
    """

    folder: Path
    state: str
    is_older: bool
    step: int | None
    total: int | None
    loss: float | None
    teacher: str
    when: datetime | None


def listed_runs(root: Path) -> list[ListedRun]:
    """Return the runs of a folder, the one that was touched last at the end."""
    runs = [_listed(path.parent) for path in root.glob("*/status.json")]
    return sorted(runs, key=lambda run: (run.when.timestamp() if run.when else 0.0, run.folder))


def _listed(folder: Path) -> ListedRun:
    status = read_json(folder / "status.json") or {}
    summary = read_json(folder / "summary.json")
    state = "finished" if summary else str(status.get("state", "?"))
    if state == "running" and not locks.is_held(folder / LOCK):
        state = "dead"
    step, progress, loss = newest(folder / "metrics.jsonl")
    settings = read_settings(folder)
    return ListedRun(
        folder,
        state,
        "mask_ratio" not in (settings.get("eval") or {})
        and heldout_masks(settings) != heldout_masks({}),
        step,
        round(step / progress) if step and progress else None,
        summary["student"]["heldout"]["loss"] if summary else loss,
        str(status.get("teacher") or "?"),
        datetime.fromisoformat(status["time"]).astimezone() if "time" in status else None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """List the runs of a folder: ``dwt-runs``."""
    parser = argparse.ArgumentParser(
        "dwt-runs", description="List runs and how far they have come."
    )
    parser.add_argument("action", nargs="?", choices=["list"], default="list")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="as run.root (runs)")
    root: Path = parser.parse_args(arguments).root.expanduser()
    runs = listed_runs(root)
    if not runs:
        print(f"no runs in {root}")
        return 0
    rows = [
        (
            run.state + ", older" * run.is_older,
            "" if run.step is None else f"{run.step} of {run.total or '?'}",
            "" if run.loss is None else f"{run.loss:.3f}",
            run.teacher,
            f"{run.when:%Y-%m-%d %H:%M}" if run.when else "",
            run.folder.name,
        )
        for run in runs
    ]
    headings = ("~state", ">step", ">held-out", "~teacher", "when", "~run")
    needed = (0, 0, 0, 120, 72, 0)  # the columns of the terminal; the run's name has its teacher
    shown = [place for place, least in enumerate(needed) if terminal_width() >= least]
    print_table([headings[n] for n in shown], [[row[n] for n in shown] for row in rows])
    if any(run.is_older for run in runs):
        print(
            "older: made by version 0.2, its held-out text masked as task.mask_ratio, keep_ratio "
            "and random_ratio say; do not compare newer runs with it"
        )
    if any(run.state == "dead" for run in runs):
        print("dead: its process has ended without a report; the same command goes on with the run")
    return 0
