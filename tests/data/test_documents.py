from pathlib import Path

from dwt_cli.data.corpus import Corpus
from dwt_cli.data.documents import documents_of
from dwt_cli.data.heldout import is_heldout
from dwt_cli.data.options import Data
from dwt_cli.data.source import no_progress
from dwt_cli.data.tokenizer import ids_of


def test_each_block_knows_its_documents(
    corpus: Corpus, corpus_folder: Path, data_options: Data, sentences: type
) -> None:
    """Against the owner of every single id."""
    owners: list[str] = []
    for document in sentences().documents(no_progress):
        if not is_heldout(document.name, data_options.heldout_fraction):
            for ids in ids_of(corpus.tokenizer, document.paragraphs):
                owners += [document.name] * (len(ids) + 1)
    content = data_options.block_length - 1
    expected = {
        block: list(dict.fromkeys(owners[block * content : (block + 1) * content]))
        for block in range(len(corpus.train))
    }
    assert sum(len(names) > 1 for names in expected.values()) > 20
    found = documents_of(corpus_folder / "train", content, range(len(corpus.train)))
    assert found == expected
    some = documents_of(corpus_folder / "train", content, [7, 2])
    assert some == {block: expected[block] for block in (2, 7)}


def test_an_older_text_knows_none(tmp_path: Path) -> None:
    assert documents_of(tmp_path, 10, [0]) is None
