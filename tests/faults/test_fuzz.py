"""The harness of random commands itself, and a few of them."""

import json
from pathlib import Path

import pytest

from dwt_cli.base.machine import commit
from tests.faults.fuzz import BATCH, answers, drawn, judged


@pytest.mark.parametrize(
    ("code", "seconds", "errors", "wrong"),
    [
        (0, 1.0, "warning: this\nand that", ""),
        (2, 1.0, "warning: this\ndwt-train: seed=a: a number", ""),
        (2, 1.0, "scale.width=8 is taken from a model\ndwt-train: seed=a: a number", ""),
        (2, 1.0, "usage: dwt-cache [-h]\n  [--yes]\ndwt-cache: error: no", ""),
        (2, 1.0, "dwt-train: one\ndwt-train: two", "2 lines"),
        (2, 1.0, "warning: this", "no reason"),
        (1, 1.0, "Traceback (most recent call last)", "a traceback"),
        (1, 1.0, "dwt-train: one", "exit code 1"),
        (-9, 1.0, "", "ended by signal 9"),
        (2, 11.0, "dwt-train: one", "11 s"),
    ],
)
def test_what_is_wrong_with_an_answer(code: int, seconds: float, errors: str, wrong: str) -> None:
    assert judged(code, seconds, errors) == wrong


@pytest.mark.slow
def test_a_seed_draws_the_same_commands_and_others_do_not() -> None:
    first, other = drawn(0), drawn(1)
    drawn.cache_clear()
    again = drawn(0)
    assert first == again != other
    assert len(first) == BATCH
    assert {words[0] for words in drawn(0, "advice")} == {"dwt-advise"}


@pytest.mark.slow
def test_random_commands_are_answered_and_written_down(tmp_path: Path) -> None:
    found = list(answers(2 * BATCH, tmp_path))
    assert [each for each in found if each.wrong] == []
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["command"] for line in lines] == [each.command for each in found]
    assert list(answers(2 * BATCH, tmp_path)) == found  # nothing is asked again
    assert {each.commit for each in found} == {commit()}


@pytest.mark.slow
def test_random_commands_for_advice_are_answered(tmp_path: Path) -> None:
    found = list(answers(BATCH, tmp_path, "advice"))
    assert [each for each in found if each.wrong] == []
