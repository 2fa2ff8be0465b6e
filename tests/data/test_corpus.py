import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dwt_cli.base import atomic
from dwt_cli.data.corpus import Corpus, build, open_tokenizer
from dwt_cli.data.heldout import is_heldout
from dwt_cli.data.options import Data, Docs, Files, Frame, Hub, HubPart
from dwt_cli.data.source import CorpusError, Document, Source, no_progress

FRAME = Frame("cls_token", "sep_token")


def words_of(corpus: Corpus, part: Any) -> list[str]:
    ids = part[np.arange(len(part))][:, 1:].reshape(-1)
    return corpus.tokenizer.decode(ids.tolist()).replace("[SEP]", " ").replace(" ", "").split(".")


def test_train_and_heldout_hold_the_text_each_in_its_order(
    corpus: Corpus, data_options: Data, sentences: Any
) -> None:
    fraction = data_options.heldout_fraction
    train: list[str] = []
    heldout: list[str] = []
    for document in sentences().documents(no_progress):
        side = heldout if is_heldout(document.name, fraction) else train
        side += [paragraph.replace(" ", "").rstrip(".") for paragraph in document.paragraphs]
    assert len(heldout) > 20
    for expected, part in ((train, corpus.train), (heldout, corpus.heldout)):
        found = words_of(corpus, part)[:-1]  # the last sentence may be cut
        dropped = (
            corpus.report["heldout_paragraphs_dropped_as_leaked"] if part is corpus.heldout else 0
        )
        rest = iter(expected)
        assert all(sentence in rest for sentence in found)
        assert len(expected) - len(found) - dropped <= 1 + data_options.block_length // 12


def test_the_report_counts_what_is_there(corpus: Corpus, data_options: Data) -> None:
    report = corpus.report
    assert report["train_tokens"] == len(corpus.train) * data_options.block_length
    assert report["heldout_tokens"] == len(corpus.heldout) * data_options.block_length
    assert report["vocabulary"] == len(corpus.tokenizer) <= data_options.vocab_size
    assert report["provenance"] == {"sentences": 60, "seed": 0}
    assert report["heldout_paragraphs_kept"] > 0
    assert not report["cut_at_max_gb"]


def test_built_again_it_is_the_same_to_the_byte(
    corpus_folder: Path, data_options: Data, sentences: Any, tmp_path: Path
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "00007.npy").write_bytes(b"left by an interrupted start")
    build(sentences(), data_options, FRAME, None, tmp_path, no_progress, print)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for name in files:
        assert (tmp_path / name).read_bytes() == (corpus_folder / name).read_bytes(), name


def test_limits_are_kept_and_said(
    data_options: Data, sentences: Any, corpus_folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    options = replace(data_options, max_heldout_blocks=5, max_gb=100.5 * 24 * 2 / 1e9)
    tokenizer = str(corpus_folder / "tokenizer")
    build(sentences(), options, FRAME, tokenizer, tmp_path, no_progress, said.append)
    corpus = Corpus.open(tmp_path)
    assert (len(corpus.train), len(corpus.heldout)) == (100, 5)
    assert corpus.report["cut_at_max_gb"]
    assert len(said) == 1
    assert "data.max_gb=" in said[0]


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([], "has no text"),
        ([Document("a", ("ab cd ef",))], "shorter than one block"),
    ],
)
def test_too_little_text_is_said_in_one_line(
    data_options: Data, tmp_path: Path, documents: list[Document], expected: str
) -> None:
    class Text(Source):
        def documents(self, progress: Any) -> Any:
            return iter(documents)

        def provenance(self) -> dict[str, Any]:
            return {}

    with pytest.raises(CorpusError, match=expected) as caught:
        build(Text(), data_options, FRAME, None, tmp_path, no_progress, print)
    assert "\n" not in str(caught.value)


def test_two_documents_on_one_side_are_split_in_pieces(
    data_options: Data, sentences: Any, tmp_path: Path
) -> None:
    class Text(Source):
        def documents(self, progress: Any) -> Any:
            every = [text for each in sentences().documents(progress) for text in each.paragraphs]
            yield from (Document(name, tuple(every)) for name in ("n0", "n1"))

        def provenance(self) -> dict[str, Any]:
            return {}

    build(Text(), data_options, FRAME, None, tmp_path, no_progress, print)
    report = Corpus.open(tmp_path).report
    assert report["heldout_pieces"] is not None


def test_a_tokenizer_without_a_mask_is_refused(corpus_folder: Path, tmp_path: Path) -> None:
    for path in (corpus_folder / "tokenizer").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["mask_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CorpusError, match="has no mask_token") as caught:
        open_tokenizer(str(tmp_path), ("cls_token", "mask_token"))
    assert "\n" not in str(caught.value)
    with pytest.raises(CorpusError, match="cannot be opened") as caught:
        open_tokenizer(str(tmp_path / "nothing"), ())
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_not_as_it_was_written_is_refused(
    corpus_folder: Path, tmp_path: Path
) -> None:
    for path in (corpus_folder / "tokenizer").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_text("weights, of which nothing is needed here")
    atomic.write_sums(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    open_tokenizer(str(tmp_path), ("mask_token",))
    with (tmp_path / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(CorpusError, match=r"tokenizer\.json is not as it was written, by"):
        open_tokenizer(str(tmp_path), ("mask_token",))


def test_each_data_schema_opens_its_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    parts = [HubPart("x/y", "c", "s", "t")]
    sources = [
        Docs(packages=["json"]).open_source(),
        Files(path=str(tmp_path)).open_source(),
        Hub(parts=parts, every_nth_sentence=4).open_source(),
    ]
    assert [type(source).__name__ for source in sources] == ["Docs", "Files", "Hub"]
