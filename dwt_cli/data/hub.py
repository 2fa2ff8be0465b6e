"""Data sets of the Hugging Face hub, streamed; every n-th sentence of them if wanted.

The paper trains on every fourth sentence of BookCorpus and English Wikipedia (arXiv 2305.18239,
section 3).
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from dwt_cli.base.atomic import file_sum
from dwt_cli.data.options import HubPart
from dwt_cli.data.source import CorpusError, Document, Progress

READER_VERSION = 1
"""Raise it with every change that changes the text: it is part of the cache fingerprint."""

SENTENCE_ROWS = 1000
"""Rows of a data set of single sentences that make up a document."""

Rows = Literal["document", "line", "sentence"]


# What a row is: a whole document, unless it is said here: a line of an article, which begins with
# ` = Title = `; a sentence, 1000 of which are taken for a document, where a data set does not say
# where its books end.
_ROWS: dict[str, Rows] = {"Salesforce/wikitext": "line", "bookcorpus/bookcorpus": "sentence"}
# the main revision is a loading script, which `datasets` 4 and later refuse to run
_REVISIONS = {"bookcorpus/bookcorpus": "refs/convert/parquet"}


class Hub:
    """Data sets of the hub one after the other, as a source.

    `every_nth_sentence=n` keeps sentences 0, n, 2n, ... of the whole stream, in their paragraphs
    and documents; 1 keeps all. `max_sentences` ends the stream with so many of those that are kept;
    without either the text stays as it is. Documents are named `dataset/config/split#number`.
    Raises CorpusError while streaming, for a data set that cannot be reached or read.
    """

    def __init__(
        self,
        parts: Sequence[HubPart],
        every_nth_sentence: int = 1,
        max_sentences: int | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.every_nth_sentence, self.max_sentences = every_nth_sentence, max_sentences

    def documents(self, progress: Progress) -> Iterator[Document]:
        """Stream the documents; progress counts rows, their total is not known beforehand."""
        rows = itertools.count(1)
        num_seen, most = 0, self.max_sentences
        for part in self.parts:
            texts = _counted(_texts(part), rows, progress)
            for number, paragraphs in enumerate(_grouped(texts, _rows(part))):
                if self.every_nth_sentence > 1 or most is not None:
                    numbers = itertools.count(num_seen)
                    paragraphs = self._thinned(paragraphs, numbers)
                    num_seen = next(numbers)
                if paragraphs:
                    yield Document(f"{_name(part)}#{number}", tuple(paragraphs))
                if most is not None and num_seen >= most * self.every_nth_sentence:
                    return

    def provenance(self) -> dict[str, Any]:
        """Return n and the parts with their revisions; of a local folder, the sums of its files."""
        return {
            "source": "hub",
            "reader": READER_VERSION,
            "every_nth_sentence": self.every_nth_sentence,
            "max_sentences": self.max_sentences,
            "parts": [
                asdict(part)
                | {"dataset": _base_name(part), "revision": _revision(part), "rows": _rows(part)}
                | ({"files": _sums(Path(part.dataset))} if _is_local(part) else {})
                for part in self.parts
            ],
        }

    def _thinned(self, paragraphs: Iterable[str], numbers: Iterator[int]) -> list[str]:
        thinned = (
            " ".join(sentence for sentence in sentences(paragraph) if self._keeps(next(numbers)))
            for paragraph in paragraphs
        )
        return [paragraph for paragraph in thinned if paragraph]

    def _keeps(self, number: int) -> bool:
        place, rest = divmod(number, self.every_nth_sentence)
        return rest == 0 and (self.max_sentences is None or place < self.max_sentences)


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


# --- rows ----------------------------------------------------------------------------------------


def _texts(part: HubPart) -> Iterator[str]:
    """Yield the text column of the rows."""
    from datasets import load_dataset

    column = part.text_column
    try:
        rows = load_dataset(
            part.dataset,
            part.config,
            split=part.split,
            revision=_revision(part),
            streaming=True,
        )
        for number, row in enumerate(rows):
            if column not in row:
                raise CorpusError(
                    f"data.parts.text_column={column}: {part.dataset} has no such column; choose "
                    f"one of {', '.join(row)}"
                )
            text = row[column]
            if not isinstance(text, str | None):
                raise CorpusError(
                    f"data.parts.text_column={column}: row {number} of {part.dataset} holds "
                    f"{type(text).__name__}, not text; name a column of strings"
                )
            yield text or ""
    except CorpusError:
        raise
    except Exception as error:  # datasets lets through whatever its network and file layers raise
        raise _unreadable(part, error) from error


def _unreadable(part: HubPart, error: Exception) -> CorpusError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, ConnectionError):
        remedy = "check the network, or read a local copy: data=files data.path=..."
    else:
        remedy = "check data.parts: dataset, config, split, and access (hf auth login)"
    return CorpusError(
        f"data.parts.dataset={part.dataset} ({part.config or 'default'}, {part.split}) cannot be "
        f"read: {reason}; {remedy}"
    )


def _counted(texts: Iterable[str], rows: Iterator[int], progress: Progress) -> Iterator[str]:
    for text in texts:
        number = next(rows)
        if number % 1000 == 0:
            progress(number, 0)
        yield text


_TITLE = re.compile(r"= [^=].* =\Z")


def _grouped(texts: Iterable[str], rows: Rows) -> Iterator[list[str]]:
    """Yield documents, which are lists of paragraphs, of rows."""
    if rows == "document":
        for text in texts:
            yield _lines(text)
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


# --- parts ---------------------------------------------------------------------------------------


def _is_local(part: HubPart) -> bool:
    return Path(part.dataset).is_dir()


def _base_name(part: HubPart) -> str:
    return Path(part.dataset).resolve().name if _is_local(part) else part.dataset


def _name(part: HubPart) -> str:
    return "/".join(filter(None, (_base_name(part), part.config, part.split)))


def _rows(part: HubPart) -> Rows:
    return _ROWS.get(part.dataset, "document")


def _revision(part: HubPart) -> str | None:
    return _REVISIONS.get(part.dataset)


def _sums(folder: Path) -> list[list[str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[path.relative_to(folder).as_posix(), file_sum(path)] for path in files]
