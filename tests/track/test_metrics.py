import json
from pathlib import Path

import pytest

from dwt_cli.track.metrics import MetricsLog, read_lines


def record(path: Path, every: int, first: int, last: int) -> None:
    log = MetricsLog(path, every)
    log.resumed(first - 1)
    for step in range(first, last + 1):
        log.stepped(step, step / 8, {"loss": 10.0 - step})
        if step % 3 == 0:
            log.evaluated(step, {"loss": 20.0 - step})


def test_lines_come_in_the_order_of_the_steps(tmp_path: Path) -> None:
    record(tmp_path / "m.jsonl", 2, 1, 6)
    assert [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()] == [
        {"step": 2, "train/progress": 0.25, "train/loss": 8.0},
        {"step": 3, "heldout/loss": 17.0},
        {"step": 4, "train/progress": 0.5, "train/loss": 6.0},
        {"step": 6, "train/progress": 0.75, "train/loss": 4.0},
        {"step": 6, "heldout/loss": 14.0},
    ]


@pytest.mark.parametrize("torn", ["", '{"step": 6, "tra'])
def test_a_resumed_file_is_that_of_an_uninterrupted_training(tmp_path: Path, torn: str) -> None:
    record(tmp_path / "straight.jsonl", 1, 1, 6)
    record(tmp_path / "resumed.jsonl", 1, 1, 5)
    with (tmp_path / "resumed.jsonl").open("a") as file:
        file.write(torn)
    record(tmp_path / "resumed.jsonl", 1, 3, 6)
    assert (tmp_path / "resumed.jsonl").read_bytes() == (tmp_path / "straight.jsonl").read_bytes()


def test_what_is_written_can_be_read_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl", 1)
    log.resumed(0)
    assert read_lines(tmp_path / "m.jsonl") == []
    log.stepped(1, 0.5, {"loss": 1.0})
    assert read_lines(tmp_path / "m.jsonl") == [
        {"step": 1, "train/progress": 0.5, "train/loss": 1.0}
    ]


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "nothing.jsonl") == []
