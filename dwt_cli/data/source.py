"""A text source: it streams documents and knows what determines them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from dwt_cli.base.errors import UserError

Progress = Callable[[int, int], None]
"""`progress(done, total)`: units of the source's own choosing; total is 0 when it is unknown."""


class CorpusError(UserError):
    """A source cannot be read: one line with setting, value and remedy."""


class Document(NamedTuple):
    """The unit that is held out whole: a source file, an article, a novel.

    `name` is unique within its source and the same on every machine; `paragraphs` are non-empty
    strings without line breaks.
    """

    name: str
    paragraphs: tuple[str, ...]


class Source(Protocol):
    """A corpus before tokenisation.

    num_bytes: what is read, on disk; infinity where reading it twice would take too long.
    left_out: a line for each part that was found and not read; whole once all has been streamed.
    """

    num_bytes: float = math.inf
    left_out: Sequence[str] = ()

    def documents(self, progress: Progress) -> Iterator[Document]:
        """Stream the documents, always in the same order. Raises CorpusError."""

    def provenance(self) -> dict[str, Any]:
        """Return what determines the text, JSON-able and without reading it all into memory."""


def text_of(row: Mapping[str, Any], column: str, setting: str, place: str) -> str:
    """Return the text in a row's column, "" for null; `CorpusError` if it is not there or no text.

    setting: the one that names the column. place: where the row stands.
    """
    if column not in row:
        problem = f"has no such column; choose one of {', '.join(row)}"
    elif not isinstance(row[column], str | None):
        problem = f"holds {type(row[column]).__name__}, not text; name a column of strings"
    else:
        return row[column] or ""
    raise CorpusError(f"{setting}={column}: {place} {problem}")


def no_progress(done: int, total: int) -> None:
    """Do nothing: a progress callback."""
