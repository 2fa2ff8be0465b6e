"""What of a study is sent to a dashboard."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dwt_cli.study import board, figures
from dwt_cli.study.report import write_report
from dwt_cli.study.results import read_results
from dwt_cli.track.dashboard import Dashboard
from dwt_cli.track.options import Entry, Wandb
from tests.study import miniature


@dataclass
class Seen(Wandb):
    """Keeps what it is given, and sends nothing."""

    entries: list[tuple[str | None, list[str], Entry]] = field(default_factory=list)

    def open(self, entry: Entry, say: Callable[[str], None]) -> Dashboard:
        self.entries.append((self.group, self.tags, entry))
        return Dashboard(entry.folder, say)


def test_one_run_sums_a_study_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda results, folder: {})
    folder = miniature.write(tmp_path, seeds=(0, 1, 2))
    write_report(folder)
    said: list[str] = []
    seen = Seen(tags=["mine"])
    board.show(read_results(folder), folder, seen, said.append)
    ((group, tags, entry),) = seen.entries
    assert (group, tags) == ("miniature", ["mine", "study"])
    assert entry.name == "study miniature"
    assert entry.summary == {"num_runs": 18, "num_left_out": 0}
    columns, verdicts = entry.tables["verdicts"]
    assert {"claim", "length", "difference [95%]", "verdict"} <= set(columns)
    assert {row[0] for row in verdicts} == {claim.claim for claim in miniature.CLAIMS}
    columns, runs = entry.tables["runs"]
    assert len(runs) == 18 and all(len(row) == len(columns) for row in runs)
    assert said == []
