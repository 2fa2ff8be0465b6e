"""A text source: it streams documents and knows what determines them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from dwt_cli.base.errors import UserError

Progress = Callable[[int, int], None]
"""`progress(done, total)`: units of the source's own choosing; total is 0 when it is unknown."""


class CorpusError(UserError):
    """A source cannot be read: one line with setting, value and remedy."""


@dataclass(frozen=True)
class Document:
    """The unit that is held out whole: a source file, an article, a novel.

    `name` is unique within its source and the same on every machine; `paragraphs` are non-empty
    strings without line breaks.
    """

    name: str
    paragraphs: tuple[str, ...]


class Source(Protocol):
    """A corpus before tokenisation."""

    def documents(self, progress: Progress) -> Iterator[Document]:
        """Stream the documents, always in the same order. Raises CorpusError."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return what determines the text, JSON-able and without reading it all into memory."""
        ...


def no_progress(done: int, total: int) -> None:
    """Do nothing: a progress callback."""
