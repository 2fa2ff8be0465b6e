"""The harness of commands that train, and a few of them."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dwt_cli.config.compose import runs_of
from dwt_cli.config.files import groups
from tests.faults.mixtures import KINDS, REFUSALS, STEPS, drawn, kind_of
from tests.faults.valid import MOST_DRAWN, Trained, answers, lacks, lacks_of, prepare, table
from tests.record import carry_out


def test_every_kind_has_its_turn() -> None:
    turns = Counter(kind_of(number) for number in range(200))
    assert turns.keys() == KINDS.keys() and min(turns.values()) == 10


def test_every_choice_of_a_training_can_be_drawn() -> None:
    about = groups().keys() - {"data", "eval", "jobs", "launch", "parallel", "scale", "tracker"}
    every = {f"{group}={choice}" for group in about for choice in groups()[group]}
    words = [
        word
        for number in range(400)
        for word in KINDS[kind_of(number)](random.Random(number)).words.items()
    ]
    used = {f"{group}={each}" for group, value in words for each in value.strip("[]").split(",")}
    rows_of_others = {"signal=imported", "teacher=imported"}
    by_default = {"signal=online", "student=large", "train=default"}
    assert every - used == rows_of_others | by_default


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valid")
    prepare(folder)
    return folder


MIXTURES = [each for each in range(120) if kind_of(each) in ("masked LM", "decoder")]


@pytest.mark.parametrize(
    "number", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in MIXTURES[1:])]
)
def test_a_random_mixture_of_choices_takes_two_steps(
    number: int, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In this process: what is not refused at once ends."""
    monkeypatch.chdir(place)
    for attempt in range(MOST_DRAWN):
        words = [*drawn(number, attempt), "run.cache=cache", f"run.root={tmp_path}"]
        try:
            (run,), _ = runs_of(words)
            folder = carry_out(run).folder
        except REFUSALS:
            assert not list(tmp_path.glob("*/metrics.jsonl")), words
            continue
        assert list(lacks_of(folder, {STEPS})) == []
        return
    pytest.fail(f"{MOST_DRAWN} commands in a row were refused")


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
