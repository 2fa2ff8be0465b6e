import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dwt_cli.config.run import Run
from dwt_cli.data import corpus as corpora
from dwt_cli.data import hub
from dwt_cli.data.corpus import Corpus, build
from dwt_cli.data.hub import Hub, sentences
from dwt_cli.data.options import Data, HubPart, TokenizerKind
from dwt_cli.data.source import CorpusError, Document, no_progress
from dwt_cli.tasks.options import CausalLM


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "modules")


def folder(path: Path, rows: list[str], kind: str = "jsonl") -> str:
    path.mkdir()
    if kind == "parquet":
        pq.write_table(pa.table({"text": rows}), path / "train.parquet")
    else:
        lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
        (path / "train.jsonl").write_text(lines)
    return str(path)


def read(*parts: HubPart, n: int = 1, most: int | None = None) -> list[Document]:
    return list(Hub(parts, n, most).documents(no_progress))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_is_a_document(tmp_path: Path, kind: str) -> None:
    rows = ["First article.\n\nIts  second paragraph.", "", "Second article."]
    part = HubPart(folder(tmp_path / "wiki", rows, kind))
    assert read(part) == [
        Document("wiki/train#0", ("First article.", "Its second paragraph.")),
        Document("wiki/train#2", ("Second article.",)),
    ]


def test_lines_are_grouped_into_articles_by_their_titles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["", " = First = ", "", " Some text . ", " = = Section = = ", " More . ", " = Second = "]
    part = HubPart(folder(tmp_path / "wikitext", rows))
    monkeypatch.setitem(hub._ROWS, part.dataset, "line")
    assert read(part) == [
        Document("wikitext/train#0", ("First", "Some text .", "Section", "More .")),
        Document("wikitext/train#1", ("Second",)),
    ]


def test_rows_of_one_sentence_are_grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SENTENCE_ROWS", 2)
    part = HubPart(folder(tmp_path / "books", ["a b .", "c d .", "e f ."]))
    monkeypatch.setitem(hub._ROWS, part.dataset, "sentence")
    assert read(part) == [
        Document("books/train#0", ("a b .", "c d .")),
        Document("books/train#1", ("e f .",)),
    ]


@pytest.mark.parametrize("most", [None, 1, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_every_nth_sentence_of_the_whole_stream(tmp_path: Path, n: int, most: int | None) -> None:
    numbers = iter(range(1000))

    def row(sizes: list[int]) -> str:
        return "\n".join(" ".join(f"It is {next(numbers)}." for _ in range(s)) for s in sizes)

    one = HubPart(folder(tmp_path / "one", [row([3, 1]), row([2]), row([1, 5, 4])]))
    two = HubPart(folder(tmp_path / "two", [row([2]), row([6, 1])]))
    kept = [
        int(sentence.removeprefix("It is ").rstrip("."))
        for document in read(one, two, n=n, most=most)
        for paragraph in document.paragraphs
        for sentence in sentences(paragraph)
    ]
    assert kept == list(range(0, 25, n))[:most]


@pytest.mark.parametrize(
    "expected",
    [
        ["He came.", "She left!", "Why?", "Nobody knew."],
        ['"Go."', '"Why?" he asked.', "(It was late.)", "1914 was over."],
        ["Mr. J. R. Smith, e.g. of the U.S. Army, met Dr. No."],
        ["It cost 3.5 dollars at example.com, i.e. little.", "Then came more."],
        ["Born in St. Louis vs. Paris ...", "Nothing else."],
        ["all in small letters . nothing is known about the end of it ."],
        ["A clause . ", "Another clause ."],
    ],
)
def test_sentences(expected: list[str]) -> None:
    expected = [sentence.strip() for sentence in expected]
    assert sentences(" ".join(expected)) == expected


def test_provenance_tells_apart_what_differs(tmp_path: Path) -> None:
    part = HubPart("some/set", "en")
    found = [
        Hub([part]).provenance(),
        Hub([part], 4).provenance(),
        Hub([HubPart("some/set", "de")]).provenance(),
        Hub([part, part]).provenance(),
        Hub([HubPart(folder(tmp_path / "a", ["x"]))]).provenance(),
        Hub([HubPart(folder(tmp_path / "b", ["y"]))]).provenance(),
    ]
    assert len({json.dumps(one) for one in found}) == len(found)
    assert str(tmp_path) not in json.dumps(found)


def test_the_data_sets_of_the_paper_are_known(composed: Callable[..., Run]) -> None:
    (wikitext,) = composed("data=wikitext").data.open_source().provenance()["parts"]
    books, wikipedia = composed("data=wikibooks").data.open_source().provenance()["parts"]
    assert (wikitext["config"], wikitext["rows"]) == ("wikitext-103-raw-v1", "line")
    assert (books["rows"], books["revision"]) == ("sentence", "refs/convert/parquet")
    assert (wikipedia["rows"], wikipedia["revision"]) == ("document", None)


def test_a_sample_is_streamed_until_there_is_enough(
    tmp_path: Path, composed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the layout of the hub: the card names a sample's files; the last one is never opened."""
    (part,) = composed("scale=decoder").data.open_source().provenance()["parts"]
    assert (part["config"], part["rows"], len(part["revision"])) == ("sample-10BT", "document", 40)
    rows = [f"Lesson {n}.\n\nWhat {n} teaches us is {n * n}. " * 8 for n in range(400)]
    for number in range(3):
        file = tmp_path / "edu" / "sample" / "10BT" / f"{number:03d}_00000.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        some = rows[number * 100 :][:100]
        columns = {"text": some, "id": [f"<urn:{n}>" for n in range(100)], "score": [3.5] * 100}
        pq.write_table(pa.table(columns), file)
    file.write_bytes(b"torn")
    (tmp_path / "edu" / "data" / "CC-MAIN-2013-20").mkdir(parents=True)
    (tmp_path / "edu" / "data" / "CC-MAIN-2013-20" / "train-00000.parquet").write_bytes(b"torn")
    sample = {"split": "train", "path": "sample/10BT/*"}
    whole = {"split": "train", "path": "data/*/*"}
    card = {"license": "odc-by", "configs": [
        {"config_name": "default", "data_files": [whole]},
        {"config_name": "sample-10BT", "data_files": [sample]},
    ]}  # fmt: skip
    (tmp_path / "edu" / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    monkeypatch.setattr(corpora, "_SAMPLE_CHARACTERS", 9_000)
    monkeypatch.setattr(corpora, "_CHUNK_CHARACTERS", 9_000)
    part = HubPart(str(tmp_path / "edu"), "sample-10BT")
    sizes = {"block_length": 16, "vocab_size": 300, "max_gb": 1e-5, "heldout_fraction": 0.1}
    options = Data(tokenizer_kind=TokenizerKind.bpe, **sizes)
    build(Hub([part]), options, CausalLM.frame, None, tmp_path / "corpus", no_progress, print)
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.report["cut_at_max_gb"]
    assert len(corpus.train) == 10_000 // (2 * 16)
    read = corpus.tokenizer.decode(corpus.train[np.array([0])][0])
    assert any(row.replace("\n\n", "\n").startswith(read[13:40]) for row in rows[:100])
    with pytest.raises(CorpusError, match="cannot be read"):
        list(Hub([part]).documents(no_progress))


def test_a_missing_column_lists_the_columns(tmp_path: Path) -> None:
    part = HubPart(folder(tmp_path / "wiki", ["Some text."]), text_column="body")
    with pytest.raises(CorpusError, match=r"data.parts.text_column=body: .* choose one of text"):
        read(part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "dev.*Available splits: .*train.*check data.parts"),
        ({"config": "fr"}, "'fr' not found.*check data.parts"),
        ({"dataset": "no/such/folder/at/all"}, "cannot be read: .*check data.parts"),
    ],
)
def test_what_is_not_there_is_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    options = {"dataset": folder(tmp_path / "wiki", ["Some text."])} | change
    with pytest.raises(CorpusError, match=message) as caught:
        read(HubPart(**options))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"data.parts.dataset={options['dataset']} ")


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*args: object, **kwargs: object) -> Iterator[dict[str, str]]:
        yield {"text": "Some text."}
        raise ConnectionError("the line\nwent dead")

    monkeypatch.setattr(datasets, "load_dataset", stream)
    documents = Hub([HubPart("some/set")]).documents(no_progress)
    assert next(documents).paragraphs == ("Some text.",)
    with pytest.raises(CorpusError, match=r"some/set .*: the line went dead; check the network"):
        next(documents)
