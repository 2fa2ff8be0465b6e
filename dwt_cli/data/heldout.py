"""What is held out of training, and the check that training does not contain it anyway.

Documents are held out whole, by their names alone, so the split is the same in every run and for
every order of the documents. Where such a draw misses its share, as it does of a few large
documents, the share is filled: with pieces, evenly spread. Text repeats itself between documents,
though: a held-out paragraph that shares more than half of its word 8-grams with the training part
is dropped.
"""

import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwt_cli.data.source import Document, Source, no_progress

GRAM = 8
MAX_SHARED = 0.5
CHUNK = 1 << 21
"""Grams looked up at a time: 16 MiB of hashes."""
MAX_MEASURED = 100e6
"""Bytes of a text whose draw is looked at before it is packed; of a longer one no draw fails."""
MIN_CHARACTERS = 10_000
"""A shorter text has no share worth filling."""


def is_heldout(name: str, fraction: float) -> bool:
    """Return whether the document of this name is held out; true for about `fraction` of all."""
    digest = blake2b(f"0:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


class Pieces(NamedTuple):
    """A split in pieces: the share of the text that they fill, and their size in characters."""

    share: float
    size: int


def pieces_for(source: Source, fraction: float, block_length: int) -> Pieces | None:
    """Return the split of a text whose draw misses its share; None where documents are drawn.

    It misses it with less than half or more than twice as much.
    """
    if source.num_bytes > MAX_MEASURED:
        return None
    total = drawn = 0
    for name, paragraphs in source.documents(no_progress):
        length = sum(map(len, paragraphs))
        total, drawn = total + length, drawn + length * is_heldout(name, fraction)
    if 0.5 * fraction * total <= drawn <= 2 * fraction * total or total < MIN_CHARACTERS:
        return None
    return pieces_of(total, fraction, block_length)


def pieces_of(total: int, fraction: float, block_length: int) -> Pieces:
    """Return the split of so many characters: 8 pieces at least, and two blocks where there are."""
    share = max(fraction, min(0.1, 16 * block_length / total))  # tokens have at most 8 characters
    return Pieces(share, max(1, int(share * total / 8)))


def _filled(documents: Iterable[Document], pieces: Pieces) -> Iterator[tuple[Document, bool]]:
    """Yield pieces, and whether each is held out: always when the share lags behind."""
    seen = held = 0
    for document in documents:
        for piece in _cut(document, pieces.size):
            length = sum(map(len, piece.paragraphs))
            seen += length
            is_out = held + length / 2 <= pieces.share * seen
            held += length * is_out
            yield piece, is_out


def _cut(document: Document, size: int) -> Iterator[Document]:
    """Yield pieces of whole paragraphs; one that is far too long is cut where sentences end."""
    most = 4 * size
    ends = rf".{{1,{most}}}[.!?](?=\s)|.{{1,{most}}}(?=\s|$)|.{{1,{most}}}"
    piece: list[str] = []
    length = 0
    for paragraph in document.paragraphs:
        for part in re.findall(ends, paragraph) if len(paragraph) > most else [paragraph]:
            piece.append(part.strip())
            length += len(part)
            if length >= size:
                yield Document(document.name, tuple(piece))
                piece, length = [], 0
    if piece:
        yield Document(document.name, tuple(piece))


class HeldOut(NamedTuple):
    """The held-out documents without leaked paragraphs, and what the check found.

    `residue` is the fraction of the kept paragraphs' grams that still occur in training; `dropped`
    and `kept` count paragraphs.
    """

    documents: tuple[Document, ...]
    kept: int
    dropped: int
    residue: float


class LeakCheck:
    """A split of a stream of documents in one pass, whose held-out side is cleared of leaks.

    The training grams are spooled to an unnamed temporary file (8 bytes per word, in `folder`) and
    looked up at the end: the stream is read only once, a training document that comes before the
    held-out one is not missed, the result is exact, and memory holds only the held-out side.
    """

    def __init__(
        self, fraction: float, folder: Path | None = None, pieces: Pieces | None = None
    ) -> None:
        self._fraction, self._pieces = fraction, pieces
        self._heldout: list[Document] = []
        self.num_characters = 0
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, finish() closes it

    def split(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield the training documents; the held-out ones stay here. May be called repeatedly."""
        drawn = ((each, is_heldout(each.name, self._fraction)) for each in documents)
        for document, is_out in _filled(documents, self._pieces) if self._pieces else drawn:
            self.num_characters += sum(map(len, document.paragraphs))
            if is_out:
                self._heldout.append(document)
            else:
                self._spool.write(grams(document.paragraphs)[0].tobytes())
                yield document

    def finish(self) -> HeldOut:
        """Drop the held-out paragraphs that leaked. Ends the check and removes its spool."""
        hashes, counts = grams([text for each in self._heldout for text in each.paragraphs])
        before = np.concatenate([[0], np.cumsum(self._in_training(hashes))])
        ends = np.cumsum(counts)
        shared = before[ends] - before[ends - counts]  # per paragraph
        keep = shared <= MAX_SHARED * counts
        flags = iter(keep)
        kept = [
            Document(name, tuple(text for text in paragraphs if next(flags)))
            for name, paragraphs in self._heldout
        ]
        num_grams = int(counts[keep].sum())
        return HeldOut(
            documents=tuple(document for document in kept if document.paragraphs),
            kept=int(keep.sum()),
            dropped=int((~keep).sum()),
            residue=float(shared[keep].sum() / num_grams) if num_grams else 0.0,
        )

    def _in_training(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return for each held-out gram whether it was spooled."""
        wanted, place = np.unique(hashes, return_inverse=True)
        found = np.zeros(len(wanted), dtype=bool)
        with self._spool as spool:
            spool.seek(0)
            while len(wanted) and (block := spool.read(8 * CHUNK)):
                # sorted queries walk through `wanted` in order instead of jumping in it
                queries = np.sort(np.frombuffer(block, dtype=np.uint64))
                at = np.minimum(np.searchsorted(wanted, queries), len(wanted) - 1)
                found[at[wanted[at] == queries]] = True
        return found[place]


_WORD = re.compile(r"\w+")
# Odd multipliers, one per place in the gram, so that the order of the words counts. Two sums of
# 32-bit sums of words, times random multipliers, are equal by chance alone, as any 64-bit hash.
_FACTORS = np.random.Generator(np.random.Philox(key=8)).integers(
    0, 2**64, size=GRAM, dtype=np.uint64
) | np.uint64(1)


def grams(paragraphs: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashes of all word 8-grams [grams], and their number by paragraph.

    Words are lower-cased runs of \\w; a paragraph of 1 to 8 words is one gram, one without words
    has none. A gram's hash depends on its words, their order and their number only.
    """
    texts = [_WORD.findall(text.lower()) for text in paragraphs]
    lengths = np.array([len(words) for words in texts], dtype=np.int64)
    flat = " ".join(word for words in texts for word in words).encode().split()
    words = np.fromiter(map(zlib.crc32, flat), dtype=np.uint64, count=len(flat))
    padded = np.concatenate([words, np.zeros(GRAM, dtype=np.uint64)])
    # how many words of its paragraph there are from each word on, itself included
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))
    hashes = np.zeros(len(words), dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        inside = left > place
        hashes += np.where(inside, padded[place : place + len(words)] * factor, 0)
    is_start = (left >= GRAM) | (left == np.repeat(lengths, lengths))
    counts = np.where(lengths > 0, np.maximum(lengths - GRAM + 1, 1), 0)
    return hashes[is_start], counts
