"""Data sets of the Hugging Face hub, streamed; every n-th sentence of them if wanted.

The paper trains on every fourth sentence of BookCorpus and English Wikipedia (arXiv 2305.18239,
section 3).
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dwt_cli.base import network
from dwt_cli.base.atomic import file_sum
from dwt_cli.data.options import HubPart
from dwt_cli.data.source import CorpusError, Document, Progress, Source, text_of

READER_VERSION = 1
"""Raise it with every change that changes the text: it is part of the cache fingerprint."""

SENTENCE_ROWS = 1000
"""Rows of a data set of single sentences that make up a document."""

# What a row is: a whole document, unless it is said here: a line of an article, which begins with
# ` = Title = `; a sentence, 1000 of which are taken for a document, where a data set does not say
# where its books end.
_ROWS = {"Salesforce/wikitext": "line", "bookcorpus/bookcorpus": "sentence"}
_REVISIONS = {
    # the main one is a loading script, which `datasets` 4 and later refuse to run
    "bookcorpus/bookcorpus": "refs/convert/parquet",
    "HuggingFaceFW/fineweb-edu": "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
}


@dataclass(frozen=True)
class Hub(Source):
    """Data sets of the hub one after the other, as a source.

    `every_nth_sentence=n` keeps sentences 0, n, 2n, ... of the whole stream, in their paragraphs
    and documents; 1 keeps all. `max_sentences` ends the stream with so many of those that are kept;
    without either the text stays as it is. Documents are named `dataset/config/split#number`.
    Raises CorpusError while streaming, for a data set that cannot be reached or read.
    """

    parts: Sequence[HubPart]
    every_nth_sentence: int = 1
    max_sentences: int | None = None

    def documents(self, progress: Progress) -> Iterator[Document]:
        """Stream the documents; progress counts rows, their total is not known beforehand."""
        every, most = self.every_nth_sentence, self.max_sentences
        end = math.inf if most is None else most * every
        numbers, num_sentences = itertools.count(1), 0

        def texts(part: HubPart) -> Iterator[str]:
            for text, number in zip(_texts(part), numbers, strict=False):
                if number % 1000 == 0:
                    progress(number, 0)
                yield text

        def thinned(paragraphs: list[str]) -> Iterator[str]:
            nonlocal num_sentences
            for found in map(sentences, paragraphs):
                numbered = enumerate(found, num_sentences)
                kept = [each for number, each in numbered if number % every == 0 and number < end]
                num_sentences += len(found)
                if kept:
                    yield " ".join(kept)

        for part in self.parts:
            name = "/".join(filter(None, (_base_name(part), part.config, part.split)))
            for number, paragraphs in enumerate(_grouped(texts(part), _ROWS.get(part.dataset))):
                if every > 1 or most is not None:
                    paragraphs = list(thinned(paragraphs))
                if paragraphs:
                    yield Document(f"{name}#{number}", tuple(paragraphs))
                if num_sentences >= end:
                    return

    def provenance(self) -> dict[str, Any]:
        """Return n and the parts with their revisions; of a local folder, the sums of its files."""
        return {
            "source": "hub",
            "reader": READER_VERSION,
            "every_nth_sentence": self.every_nth_sentence,
            "max_sentences": self.max_sentences,
            "parts": [_provenance(part) for part in self.parts],
        }


_BOUNDARY = re.compile(r"(?<=[.!?])[\"'”’)\]]*(\s+)(?=[\"'“‘(\[]*[A-Z\d])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Prof|Rev|Gen|Col|Capt|Lt|Sgt|Hon|Sr|Jr|Mt|No|Nos"
    r"|Vol|Fig|Inc|Ltd|Co|Corp|vs|cf|ca|approx|e\.g|i\.e|(?:[A-Z]\.)+[A-Z])\.\Z"
)


def sentences(paragraph: str) -> list[str]:
    """Return a paragraph cut after `.`, `!` or `?` where a capital or digit follows.

    Initials and the common abbreviations do not end a sentence. Lower-cased text, such as
    BookCorpus, stays whole: its rows are sentences already.
    """
    found = []
    start = 0
    for match in _BOUNDARY.finditer(paragraph):
        if not _ABBREVIATION.search(paragraph, start, match.start()):
            found.append(paragraph[start : match.start(1)])
            start = match.end()
    return [*found, paragraph[start:]]


def _texts(part: HubPart) -> Iterator[str]:
    """Yield the text column of the rows."""
    network.notice_absence()  # before datasets takes note of it
    from datasets import load_dataset

    remedy = "check data.parts: dataset, config, split, and access (hf auth login)"
    try:
        at = {"split": part.split, "revision": _REVISIONS.get(part.dataset)}
        rows = load_dataset(part.dataset, part.config, **at, streaming=True)
        for number, row in enumerate(rows):
            place = f"row {number} of {part.dataset}"
            yield text_of(row, part.text_column, "data.parts.text_column", place)
    except CorpusError:
        raise
    except Exception as error:  # datasets lets through whatever its network and file layers raise
        if isinstance(error, ConnectionError):
            remedy = "check the network, or read a local copy: data=files data.path=..."
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CorpusError(
            f"data.parts.dataset={part.dataset} ({part.config or 'default'}, {part.split}) cannot "
            f"be read: {reason}; {remedy}"
        ) from error


_TITLE = re.compile(r"= [^=].* =\Z")


def _grouped(texts: Iterable[str], rows: str | None) -> Iterator[list[str]]:
    """Yield documents, which are lists of paragraphs, of rows."""
    if rows is None:
        yield from map(_lines, texts)
        return
    document: list[str] = []
    for number, text in enumerate(texts):
        line = text.strip()
        starts = _TITLE.match(line) if rows == "line" else number % SENTENCE_ROWS == 0
        if starts and document:
            yield document
            document = []
        document += _lines(line.strip("= ") if rows == "line" else line)
    if document:
        yield document


def _lines(text: str) -> list[str]:
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line]


def _base_name(part: HubPart) -> str:
    folder = Path(part.dataset)
    return folder.resolve().name if folder.is_dir() else part.dataset


def _provenance(part: HubPart) -> dict[str, Any]:
    found = asdict(part) | {
        "dataset": _base_name(part),
        "revision": _REVISIONS.get(part.dataset),
        "rows": _ROWS.get(part.dataset, "document"),
    }
    folder = Path(part.dataset)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        found["files"] = [[f.relative_to(folder).as_posix(), file_sum(f)] for f in files]
    return found
