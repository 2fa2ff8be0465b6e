from pathlib import Path
from typing import Any

from dwt_cli.data.corpus import Corpus
from dwt_cli.data.heldout import LeakCheck
from dwt_cli.data.options import Frame
from dwt_cli.data.pack import Blocks, pack, write_blocks
from dwt_cli.data.source import no_progress
from dwt_cli.data.tokenizer import ids_of
from dwt_cli.evaluate.sentences import heldout_sentences

FRAME = Frame("cls_token", "sep_token")


def test_the_held_out_text_comes_back(corpus: Corpus, sentences: type[Any]) -> None:
    check = LeakCheck(0.25)
    for _ in check.split(sentences().documents(no_progress)):
        pass
    heldout = [text for document in check.finish().documents for text in document.paragraphs]
    found = heldout_sentences(corpus, FRAME)
    assert found == heldout[: len(found)]
    assert len(heldout) - len(found) <= 2, "what does not fill the last block is not in it"


def test_sentences_are_split_distinct_and_known(corpus: Corpus, tmp_path: Path) -> None:
    paragraphs = ["bark delin. mossa. tum.", "give.", "mossa.", "rum \u4e16 sark. nive.", "lost."]
    ids = ids_of(corpus.tokenizer, paragraphs)
    write_blocks(pack(ids, 5, [2], [3]), tmp_path / "heldout", 160, 1000)
    found = heldout_sentences(
        Corpus(corpus.tokenizer, corpus.train, Blocks(tmp_path / "heldout"), {}), FRAME
    )
    assert found == ["bark delin.", "mossa.", "tum.", "give.", "nive."]
