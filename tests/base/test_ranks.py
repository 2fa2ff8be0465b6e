"""Several processes of one run: the values they share, and how they end together."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.base.ranks import ALONE, SECONDARY_FAILURE, Ranks
from tests.processes import rank_processes, together


def _exchange(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Call every method of `Ranks`, as if rank 1 had a machine of its own."""

    def make() -> list[int]:
        (folder / f"made-by-{ranks.rank}").touch()
        return [ranks.rank]

    found: dict[str, Any] = {"largest": ranks.largest(10.0 + ranks.rank)}
    found["first"] = ranks.from_first("it", make)
    found["machine"] = ranks.once_per_machine("it", lambda: ranks.rank)
    ranks.agree({"text": "the same"})
    try:
        ranks.agree({"text": "the same", "torch": ranks.rank})
    except UserError as error:
        found["error"] = str(error)
    ranks._max_wait /= 10**6  # type: ignore[attr-defined]
    try:
        ranks.from_first("the corpus", lambda: time.sleep(1))
    except UserError as error:
        found["late"] = str(error)
    return found


def test_all_ranks_get_the_same_values(tmp_path: Path) -> None:
    first, second = together(2, _exchange, tmp_path)
    assert first == {"largest": 11.0, "first": [0], "machine": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["made-by-0"]
    assert (second["largest"], second["first"], second["machine"]) == (11.0, [0], 0)
    assert "rank 1 on" in second["error"]
    assert "has torch 1, and rank 0 0; make all nodes alike" in second["error"]
    assert "launch.max_wait_minutes=" in second["late"] and "for the corpus" in second["late"]


def test_a_process_alone_gets_its_own_values() -> None:
    assert ALONE.largest(3.0) == 3.0
    assert ALONE.from_first("it", lambda: 5) == ALONE.once_per_machine("it", lambda: 5) == 5
    ALONE.agree({"text": 1})


def _fail(ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise ValueError("a bug")
    ranks.largest(1.0)


def _be_killed(ranks: Ranks) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), 9)
    ranks.largest(1.0)


@pytest.mark.parametrize(("work", "code"), [(_fail, 1), (_be_killed, -9)])
def test_the_others_end_within_seconds_without_a_message(work: Any, code: int) -> None:
    _, processes = rank_processes(2, work, ())
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [SECONDARY_FAILURE, code]


@pytest.mark.slow
def test_twenty_starts_in_a_row_end_cleanly(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        together(2, _exchange, tmp_path / str(number))
