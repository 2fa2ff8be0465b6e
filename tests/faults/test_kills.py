"""The harness of kills itself, and a few of them."""

import json
import os
from pathlib import Path

import pytest

from tests.faults.harms import HARMS
from tests.faults.kills import Kill, answers, content, differences, drawn, table
from tests.faults.phases import PHASES


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Files of a run, as short as they may be."""
    run = tmp_path / "runs" / "a"
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    (run / "checkpoints" / "step-1" / "optimizer.safetensors").write_bytes(b"moments")
    state = {"counters": {"step": 1, "elapsed_s": 2.0, "memory": {"alpha": 1.0}}}
    (run / "checkpoints" / "step-1" / "state.json").write_text(json.dumps(state))
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 3.5, "train/elapsed_s": 1}\n')
    (run / "results.csv").write_text("arm,heldout_loss,student_seconds\na,3.5,7\n")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("checkpoints/step-1/optimizer.safetensors", "moments", "momentz"),
        ("checkpoints/step-1/state.json", '"alpha": 1.0', '"alpha": 1.5'),
        ("metrics.jsonl", "3.5", "3.5000001"),
        ("results.csv", "3.5", "3.6"),
    ],
)
def test_every_difference_is_named_but_that_of_clocks(
    place: Path, file: str, old: str, new: str
) -> None:
    before, path = content(place), place / "runs" / "a" / file
    for name, clock in (("metrics.jsonl", '_s": 1'), ("results.csv", ",7")):
        timed = place / "runs" / "a" / name
        timed.write_text(timed.read_text().replace(clock, clock[:-1] + "9"))
    assert differences(place, before) == []
    path.write_text(path.read_text().replace(old, new))
    assert differences(place, before) == [f"runs/a/{file}"]
    path.unlink()
    assert differences(place, before) == [f"runs/a/{file}"]


def test_moments_follow_from_the_number() -> None:
    phase, share = PHASES["checkpoint"], PHASES["study"]
    assert drawn(3, phase, 99.0) == drawn(3, phase, 1.0) <= phase.after_s
    assert drawn(3, share, 10.0) == pytest.approx(2 * drawn(3, share, 5.0))
    assert len({drawn(number, phase, 1.0) for number in range(100)}) == 100


def test_the_table_counts_what_was_killed_and_what_was_different() -> None:
    kills = [
        Kill(0, "training", 0.1, True, 1.0, []),
        Kill(1, "study", 0.2, False, 1.0, []),
        Kill(2, "training", 0.3, True, 1.0, ["runs/a/metrics.jsonl"]),
    ]
    rows = table(kills).splitlines()
    assert rows[2:] == [
        "| training | 2 | 0, 2 | 0 | 1 |",
        "| study | 0 | 1 | 1 | 0 |",
        "| all | 2 | | 1 | 1 |",
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_commands_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    some = {name: PHASES[name] for name in ("packing", "training")}
    found = list(answers(2, tmp_path, some))
    assert [each.different for each in found] == [[], []]
    assert all(each.died for each in found)
    assert list(answers(2, tmp_path, some)) == found  # nothing is killed again


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("harm", ["room", "stops"])
def test_a_full_disk_and_a_signal_are_one_line_and_no_difference(tmp_path: Path, harm: str) -> None:
    if harm == "room" and os.geteuid():
        pytest.skip("mounting a small disk needs root")
    some = {name: PHASES[name] for name in ("training", "study")}
    found = list(answers(2, tmp_path, some, HARMS[harm]))
    assert [each.different for each in found] == [[], []]
    assert all(each.died and each.said for each in found)
