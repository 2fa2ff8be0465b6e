"""Labelled texts, from files of one's own and from documentation: read, split and refused."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dwt_cli.base.errors import UserError
from dwt_cli.data.labelled import Columns, LabelledSet, OwnFiles, PackageTexts

Row = dict[str, Any]
ROWS: list[Row] = [
    {"text": f"text number {n}", "other": f"beside {n}", "label": "ab"[n % 2], "n": n / 4}
    for n in range(60)
]


def write(path: Path, rows: Sequence[Row] = ROWS) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, dev: Path | None = None, share: float = 0.2, **columns: Any) -> LabelledSet:
    wanted = Columns(**{"texts": ["text"], "label": "label", **columns})
    return OwnFiles(str(path), dev and str(dev), wanted, share).read()


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_pairs_and_classes_are_read_from_the_columns_by_name(tmp_path: Path, kind: str) -> None:
    found = read(write(tmp_path / f"train{kind}"), texts=["text", "other"])
    parts = (found.train, found.heldout[""])
    assert found.names == ("a", "b")
    assert found.heldout.keys() == {""}
    assert sorted(text for part in parts for text in part.texts) == sorted(
        (row["text"], row["other"]) for row in ROWS
    )
    for part in parts:
        for (text, _), label in zip(part.texts, part.labels, strict=True):
            assert label == int(text.rpartition(" ")[2]) % 2


def test_the_share_held_out_follows_texts_alone_and_equal_ones_stay_together(
    tmp_path: Path,
) -> None:
    twice = [*ROWS, *reversed(ROWS)]
    once, both = read(write(tmp_path / "a.jsonl")), read(write(tmp_path / "b.jsonl", twice))
    assert 4 <= len(once.heldout[""].texts) <= 20
    counts = Counter(both.heldout[""].texts)
    assert counts.keys() == set(once.heldout[""].texts)
    assert set(counts.values()) == {2}
    assert counts.keys().isdisjoint(both.train.texts)


def test_classes_that_are_whole_numbers_are_in_their_order(tmp_path: Path) -> None:
    rows = [{"text": f"t {n}", "label": (2, 10, -1)[n % 3]} for n in range(30)]
    path = write(tmp_path / "train.jsonl", rows)
    assert read(path).names == ("-1", "2", "10")
    found = read(path, write(tmp_path / "dev.jsonl", rows[:3]))
    assert found.heldout[""].labels == [1, 2, 0]
    assert len(found.train.texts) == 30


@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
def test_numbers_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    found = read(write(tmp_path / f"train{kind}"), label="n", is_number=True)
    assert found.names == ()
    for part in (found.train, found.heldout[""]):
        for (text,), label in zip(part.texts, part.labels, strict=True):
            assert label == int(text.rpartition(" ")[2]) / 4


@pytest.mark.parametrize("value", ["many", True, "nan", [1]])
def test_what_is_no_number_is_one_line(tmp_path: Path, value: object) -> None:
    rows = [*ROWS, {**ROWS[0], "n": value}]
    with pytest.raises(UserError, match=r"task\.label_column=n: .* has .*, no number"):
        read(write(tmp_path / "train.jsonl", rows), label="n", is_number=True)


def test_superscripts_are_names_and_no_numbers(tmp_path: Path) -> None:
    rows = [{"text": f"t {n}", "label": ("²", "10")[n % 2]} for n in range(30)]
    assert read(write(tmp_path / "train.jsonl", rows)).names == ("10", "²")


def test_held_out_texts_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl")
    others = [{**row, "text": f"another {row['text']}"} for row in ROWS[:5]]
    assert read(train, write(tmp_path / "dev.jsonl", others)).remarks == []
    found = read(train, write(tmp_path / "dev.jsonl", [*ROWS[:3], *others]))
    assert found.remarks == ["3 of 8 held-out texts are also trained on"]


def test_a_file_of_both_parts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    dev = write(tmp_path / "dev.jsonl", ROWS[:9])
    with pytest.raises(UserError, match=r"task.dev_path=.*dev.jsonl is trained on, too"):
        read(tmp_path, dev)


def test_files_that_are_left_out_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    write(tmp_path / "about.csv", [{"author": "nobody"}])
    (line,) = read(tmp_path).remarks
    assert "about.csv" in line


Spoil = Callable[[list[Row]], object]
REFUSED: list[tuple[str, Spoil, dict[str, Any], str]] = [
    ("no column", lambda rows: None, {"texts": ["body"]}, "task.text_columns=body.*choose one of"),
    ("no label", lambda rows: None, {"label": "class"}, "task.label_column=class.*choose one of"),
    ("a class that occurs once", lambda rows: rows[3].update(label="c"), {}, "c occurs once"),
    ("one class", lambda rows: [r.update(label="a") for r in rows], {}, "all labels are 'a'"),
    ("an empty label", lambda rows: rows[3].update(label=None), {}, "row 4 has no label"),
    ("numbers", lambda rows: rows[3].update(label=0.5), {}, "row 4 has 0.5.*whole numbers"),
    ("blank", lambda rows: rows[3].update(text=" "), {}, "task.text_columns=.*row 4 has no text"),
    ("other than text", lambda rows: rows[3].update(text=7), {}, "row 4 holds int, not text"),
]


@pytest.mark.parametrize(("spoil", "columns", "line"), [each[1:] for each in REFUSED])
def test_what_cannot_be_learned_is_one_line(
    tmp_path: Path, spoil: Spoil, columns: dict[str, Any], line: str
) -> None:
    rows = [dict(row) for row in ROWS]
    spoil(rows)
    with pytest.raises(UserError, match=line) as caught:
        read(write(tmp_path / "train.jsonl", rows), **columns)
    assert "\n" not in str(caught.value)


def test_a_class_of_the_dev_part_alone_is_refused(tmp_path: Path) -> None:
    dev = write(tmp_path / "dev.jsonl", [{"text": "x", "label": "c"}] * 2)
    with pytest.raises(UserError, match="c is in the dev part alone"):
        read(write(tmp_path / "train.jsonl"), dev)


def test_text_without_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("text\n")
    with pytest.raises(UserError, match=r"task.path=.*train.txt.*has no columns"):
        read(tmp_path / "train.txt")
    with pytest.raises(UserError, match=r"task.path=.*no such file"):
        read(tmp_path / "other.jsonl")


def test_what_determines_a_set_is_its_content(tmp_path: Path) -> None:
    def content(path: Path, dev: Path | None = None, share: float = 0.2) -> Any:
        return OwnFiles(str(path), dev and str(dev), Columns(["text"], "label"), share).content()

    one = write(tmp_path / "one.jsonl")
    other = write(tmp_path / "other.jsonl")
    assert content(one) == content(other) != content(one, share=0.3)
    assert content(one, other) == content(one, other, share=0.3) != content(one)
    write(other, ROWS[:-1])
    assert content(one) != content(other)


def test_the_order_of_packages_is_that_of_the_classes_and_counts() -> None:
    there, back = (
        PackageTexts(names, 4, 1) for names in (["click", "jinja2"], ["jinja2", "click"])
    )
    assert there.content() != back.content()


def test_which_package_a_paragraph_is_from() -> None:
    found = PackageTexts(["click", "jinja2"], 40, 10).read()
    assert found.names == ("click", "jinja2")
    for part, size in ((found.train, 40), (found.heldout[""], 10)):
        assert Counter(part.labels) == {0: size, 1: size}
        assert all(len(text.split()) >= 8 for (text,) in part.texts)
    every = [*found.train.texts, *found.heldout[""].texts]
    assert len(set(every)) == len(every)
    assert found == PackageTexts(["click", "jinja2"], 40, 10).read()


def test_what_is_not_there_is_named_by_the_settings_of_the_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.packages=nope: no such package"):
        PackageTexts(["nope", "click"], 40, 10).read()
    with pytest.raises(UserError, match=r"task\.dev_share=1e-09: no row is left"):
        read(write(tmp_path / "train.jsonl"), share=1e-9)
