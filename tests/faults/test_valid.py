"""The harness of commands that train, and a few of them."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.faults.mixtures import KINDS, kind_of
from tests.faults.valid import Trained, answers, lacks, table


def test_every_kind_has_its_turn() -> None:
    turns = Counter(kind_of(number) for number in range(200))
    assert turns.keys() == KINDS.keys() and min(turns.values()) == 10


@pytest.mark.parametrize(
    ("steps", "loss", "weights", "lack"),
    [
        (2, 5.5, [[1.0]], []),
        (1, 5.5, [[1.0]], ["1 steps"]),
        (2, float("nan"), [[1.0]], ["a loss of nan"]),
        (2, 5.5, [], ["no model"]),
        (2, 5.5, [[1.0, float("inf")]], ["weights that are no numbers: w"]),
    ],
)
def test_what_a_run_lacks(
    tmp_path: Path, steps: int, loss: float, weights: list[list[float]], lack: list[str]
) -> None:
    run = tmp_path / "runs" / "a"
    (run / "model").mkdir(parents=True)
    summary = {"student": {"steps": steps, "heldout": {"loss": loss}}}
    (run / "summary.json").write_text(json.dumps(summary))
    for each in weights:
        save_file({"w": torch.tensor(each)}, run / "model" / "model.safetensors")
    assert list(lacks(tmp_path, {2})) == [f"a: {each}" for each in lack]
    assert list(lacks(tmp_path / "text", {2})) == ["no run"]


def test_the_table_counts_what_trained_and_what_was_refused() -> None:
    commands = [
        Trained("decoder", 0, 1.0, "dwt-train", [], refused=["one", "two"]),
        Trained("study", 1, 1.0, "dwt-train", ["no run"]),
    ]
    assert table(commands).splitlines()[2:] == [
        "| decoder | 1 | 1 | 2 | 0 |",
        "| study | 1 | 0 | 0 | 1 |",
        "| all | 2 | 1 | 2 | 1 |",
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_commands_train_two_steps_and_are_written_down(tmp_path: Path) -> None:
    found = list(answers(3, tmp_path))
    assert [each.wrong for each in found] == [[], [], []]
    assert list(answers(3, tmp_path)) == found  # nothing is trained again
