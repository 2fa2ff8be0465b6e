"""What is no number, planted once in each place; and how trials are kept."""

from pathlib import Path

import pytest

from tests.faults import planted
from tests.faults.trials import Trial, kept, table


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_no_number_ends_as_the_settings_say(tmp_path: Path) -> None:
    found = list(planted.answers(1, tmp_path))
    assert {each.name for each in found} == planted.PLACES.keys()
    assert [each for each in found if each.wrong] == []


def test_what_was_wrong_is_tried_again_and_what_was_right_is_kept(tmp_path: Path) -> None:
    asked = []

    def ask(name: str, number: int) -> Trial:
        asked.append((name, number))
        return Trial(name, number, 0.1, "", ["no"] if len(asked) == 2 else [])

    wanted = [("a", 0), ("a", 1), ("b", 0)]
    assert [each.wrong for each in kept(tmp_path / "r.jsonl", wanted, ask, Trial)] == [
        [],
        ["no"],
        [],
    ]
    found = list(kept(tmp_path / "r.jsonl", wanted, ask, Trial))
    assert asked == [*wanted, ("a", 1)]
    assert table(found).splitlines()[2:] == [
        "| a | 2 | 0 to 1 | 0 |",
        "| b | 1 | 0 | 0 |",
        "| all | 3 | | 0 |",
    ]
