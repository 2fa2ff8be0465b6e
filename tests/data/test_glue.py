from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.data.glue import TASKS, provenance, read

SETTING = "task.path"


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_read_as_it_stands(glue_folder: Path, name: str) -> None:
    task = TASKS[name]
    examples = read(task, task.train, str(glue_folder), SETTING)
    assert len(examples.texts) == len(examples.labels) == 40
    assert {len(texts) for texts in examples.texts} == {len(task.texts)}
    assert any('the "bark' in texts[0] for texts in examples.texts)
    if task.labels:
        assert set(examples.labels) == set(range(len(task.labels)))
    else:
        assert all(0 <= label <= 5 for label in examples.labels)
    assert examples.remarks == [f"{name}/train.tsv: 40 examples, officially {task.train.size:,}"]


def test_a_dev_set_by_a_longer_name_is_said(glue_folder: Path) -> None:
    task = TASKS["MNLI"]
    (glue_folder / "MNLI" / "dev_mismatched.tsv").rename(
        glue_folder / "MNLI" / "dev_mismatched_hard.tsv"
    )
    examples = read(task, task.dev[1], str(glue_folder), SETTING)
    assert "MNLI-mm read from dev_mismatched_hard.tsv" in examples.remarks


Spoil = Callable[[Path], object]
MISTAKES: dict[str, tuple[Spoil, list[str]]] = {
    "no file": (Path.unlink, ["task.path=", "RTE/train.tsv", "looked in", "other tasks than RTE"]),
    "no column": (
        lambda file: file.write_text("index\tpremise\tlabel\n0\ta\t1\n"),
        ["train.tsv", "sentence1, sentence2", "index, premise, label"],
    ),
    "a label": (
        lambda file: file.write_text(file.read_text().replace("not_entailment", "neutral")),
        ["train.tsv line", "'neutral'", "entailment, not_entailment"],
    ),
    "torn rows": (
        lambda file: file.write_text("index\tsentence1\tsentence2\tlabel\n0\ta\n"),
        ["train.tsv line 2", "fetch the file again"],
    ),
    "no UTF-8": (lambda file: file.write_bytes(b"\xff\n"), ["train.tsv", "UTF-8"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(glue_folder: Path, mistake: str) -> None:
    spoil, parts = MISTAKES[mistake]
    spoil(glue_folder / "RTE" / "train.tsv")
    with pytest.raises(UserError) as error:
        read(TASKS["RTE"], TASKS["RTE"].train, str(glue_folder), SETTING)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_one_torn_row_of_many_is_left_out_and_counted(glue_folder: Path) -> None:
    file = glue_folder / "RTE" / "train.tsv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines, *lines[1:] * 4, "7\ttorn\n"]))
    examples = read(TASKS["RTE"], TASKS["RTE"].train, str(glue_folder), SETTING)
    assert len(examples.texts) == 200
    assert "train.tsv: 1 torn rows left out" in examples.remarks


def test_the_files_contents_are_the_provenance(glue_folder: Path) -> None:
    before = provenance(TASKS["RTE"], str(glue_folder), SETTING)
    moved = glue_folder.rename(glue_folder.with_name("elsewhere"))
    assert provenance(TASKS["RTE"], str(moved), SETTING) == before
    (moved / "RTE" / "dev.tsv").write_text("other")
    assert provenance(TASKS["RTE"], str(moved), SETTING) != before


def test_the_hub_s_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, config: str, split: str) -> Any:
        assert (name, config, split) == ("nyu-mll/glue", "mnli", "validation_matched")
        return datasets.Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "label": [2]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    examples = read(TASKS["MNLI"], TASKS["MNLI"].dev[0], None, SETTING)
    assert (list(examples.texts), list(examples.labels)) == ([("a", "b")], [2])


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **more: object) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"nyu-mll/glue rte.*no route.*task.path"):
        read(TASKS["RTE"], TASKS["RTE"].train, None, SETTING)
