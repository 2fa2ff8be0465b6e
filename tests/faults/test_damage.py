"""Every file of checkpoints, caches, models and runs is damaged in turn: found, and named."""

import tarfile
from pathlib import Path

import pytest

from dwt_cli.training.checkpoint import Checkpoints
from tests.faults.damage import HARMS, MADE_WHOLE, answers, artifacts, damaged, files_of
from tests.faults.older import ARCHIVES, MADE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what earlier commits have made: real runs and caches, as small as they get."""
    folder = tmp_path_factory.mktemp("damage")
    for commit in MADE:
        with tarfile.open(ARCHIVES / f"{commit}.tar.xz") as packed:
            packed.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    "kind",
    [
        "checkpoint",
        "model",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("corpus", "teacher", "signal")),
    ],
)
def test_damage_is_named_and_what_is_whole_is_taken(place: Path, kind: str, harm: str) -> None:
    folder = artifacts(place)[kind]
    names = files_of(kind, folder)
    if kind == "model":  # there were no sums: a bit is not noticed, nor what is not opened
        names = [name for name in names if "tokenizer" not in name and harm != "flipped"]
    assert len(names) > 1 or (kind, harm) == ("model", "flipped")
    for name in names:
        said, wrong = damaged(place, kind, folder, name, harm)
        assert not wrong and "\n" not in said
    if kind == "checkpoint":
        assert Checkpoints(folder.parent, "", 2, print)._newest_whole() == folder.name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_made_today_is_all_noticed(tmp_path: Path) -> None:
    found = list(answers(99, tmp_path))
    assert [each for each in found if each.wrong] == []
    assert len(found) > 3 * 40
    of_runs = {each.said for each in found if each.name.startswith("run")}
    assert f"summary.json: {MADE_WHOLE}" in of_runs
    assert any("metrics.jsonl: warning: metrics.jsonl of this run" in said for said in of_runs)
    assert list(answers(99, tmp_path)) == found  # nothing is damaged again
