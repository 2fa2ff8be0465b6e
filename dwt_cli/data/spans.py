"""The same text in the tokens of two tokenizers, and the places where tokens of both end.

What one has read at such a place is what the other has: states can be compared there, and the
likelihoods of the tokens in between.

Legend: B blocks, L positions of ours, T of theirs, A places where tokens end together.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwt_cli.data.surfaces import Surfaces
from dwt_cli.data.tokenizer import AS_TEXT

Numbers = NDArray[np.int64]


class Reading(NamedTuple):
    """A block as they read it.

    ids_T: theirs. ours_A, theirs_A: the positions of tokens that end together, in order.
    special_T: whether a token is special. hidden_T: whether it is of text that ours do not show.
    num_beyond: how many of ours end after what is cut off begins.
    """

    ids_T: Numbers
    ours_A: Numbers
    theirs_A: Numbers
    special_T: NDArray[np.bool_]
    hidden_T: NDArray[np.bool_]
    num_beyond: int


class _Part(NamedTuple):
    """A special token of a block, or the text between two: the positions start .. end - 1."""

    start: int
    end: int
    special: int | None


class Spans:
    """Reads what is in our tokens in theirs: a pure function of the block.

    Text is what our tokens stand for (`Surfaces`); a part of a character at the ends of a block is
    left out. Special tokens are theirs of the same role; one that they have not is left out. What
    is longer than ``max_length`` is cut off.
    """

    def __init__(self, ours: Surfaces, theirs: Surfaces, max_length: int) -> None:
        self._ours, self._theirs, self._max_length = ours, theirs, max_length
        self._special = ours.by_role(theirs)

    def read(self, blocks_BL: Numbers, hidden_BL: NDArray[np.bool_] | None = None) -> list[Reading]:
        """Return each block in their tokens. hidden_BL: positions that ours do not show."""
        parts = [list(self._parts(block_L)) for block_L in blocks_BL.tolist()]
        texts: list[bytes] = []
        for block_L, of_block in zip(blocks_BL.tolist(), parts, strict=True):
            for start, end, special in of_block:
                if special is None:
                    texts.append(b"".join(self._ours.bytes_of[n] for n in block_L[start:end]))
        read = iter(self._tokens(texts))
        shown = np.zeros(blocks_BL.shape, bool) if hidden_BL is None else hidden_BL
        given = zip(blocks_BL.tolist(), parts, shown, strict=True)
        return [self._reading(block_L, of_block, read, h_L) for block_L, of_block, h_L in given]

    def _parts(self, block_L: Sequence[int]) -> Iterator[_Part]:
        start = 0
        for place, number in enumerate(block_L):
            if number not in self._ours.bytes_of:
                if start < place:
                    yield _Part(start, place, None)
                yield _Part(place, place + 1, number)
                start = place + 1
        if start < len(block_L):
            yield _Part(start, len(block_L), None)

    def _tokens(self, texts: Sequence[bytes]) -> Iterator[tuple[list[int], Numbers]]:
        """Yield their ids for each text, and at which byte of it each of them ends."""
        heads = [_head(text) for text in texts]
        wholes = [t[n:].decode(errors="ignore") for t, n in zip(texts, heads, strict=True)]
        if not texts:
            return
        asked = self._theirs.tokenizer(wholes, **AS_TEXT, return_offsets_mapping=True)
        found = zip(texts, heads, wholes, asked["input_ids"], asked["offset_mapping"], strict=True)
        for text, head, whole, ids, offsets in found:
            if not text.startswith(whole.encode(), head):  # our tokens lack a part of the text
                yield [], np.zeros(0, np.int64)
                continue
            yield ids, head + self._ends(whole, ids, offsets)

    def _ends(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Numbers:
        """Return the bytes of the text that are read after each token.

        They are counted where all tokens together are the text, but for a space that is put before
        it. Offsets, which are rounded up to whole characters, serve any other tokenizer.
        """
        content = text.encode()
        stand_for = [self._theirs.bytes_of.get(number, b"") for number in ids]
        joined = b"".join(stand_for)
        if joined.removeprefix(b" ") == content.removeprefix(b" "):
            put_before = len(joined) - len(content)
            return np.maximum(np.cumsum([*map(len, stand_for)], dtype=np.int64) - put_before, 0)
        as_bytes = np.frombuffer(content, np.uint8)
        starts = np.append(np.flatnonzero((as_bytes & 0xC0) != 0x80), len(content))
        ends = starts[[end for _, end in offsets]] if offsets else np.zeros(0, np.int64)
        return np.maximum.accumulate(ends.astype(np.int64))

    def _reading(
        self,
        block_L: Sequence[int],
        parts: Iterable[_Part],
        read: Iterator[tuple[list[int], Numbers]],
        hidden_L: NDArray[np.bool_],
    ) -> Reading:
        """Return a block in their tokens; read: their tokens of the parts that are text, in order.

        A special token counts one byte.
        """
        ids, ours, theirs, special = [], [], [], []  # ours and theirs: where their tokens end
        base = 0
        for start, end, number in parts:
            if number is not None:
                alike = self._special[number]
                base += 1
                ours.append(np.array([base]))
                if alike:  # what begins comes first, and what ends last
                    ids.append(alike[0] if start == 0 else alike[-1])
                    theirs.append(np.array([base]))
                    special.append(True)
                continue
            numbers, ends = next(read)
            lengths = [len(self._ours.bytes_of[each]) for each in block_L[start:end]]
            ours.append(base + np.cumsum(lengths))
            ids += numbers
            theirs.append(base + ends)
            special += [False] * len(numbers)
            base += sum(lengths)
        ours_L, theirs_T = (np.concatenate([*each, np.zeros(0, int)]) for each in (ours, theirs))
        covered = np.zeros(base + 1, np.int64)  # bytes up to each that are hidden
        covered[1:] = np.repeat(hidden_L, np.diff(ours_L, prepend=0)).cumsum()
        hidden_T = np.diff(covered[theirs_T], prepend=0) > 0
        for place in np.flatnonzero(np.diff(theirs_T) == 0) + 1:  # parts of one character
            hidden_T[place] |= hidden_T[place - 1]
        _, ours_A, theirs_A = _last_in_common(ours_L, theirs_T)
        most = self._max_length
        kept = theirs_A < most
        ids_T, special_T = np.array(ids, np.int64)[:most], np.array(special, bool)[:most]
        beyond = int((ours_L > theirs_T[most - 1]).sum()) if len(ids) > most else 0
        return Reading(ids_T, ours_A[kept], theirs_A[kept], special_T, hidden_T[:most], beyond)


def _head(text: bytes) -> int:
    """Return the number of bytes before the first whole character."""
    return next((n for n, byte in enumerate(text) if byte & 0xC0 != 0x80), len(text))


def _last_in_common(ours: Numbers, theirs: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Return the values that both have, and where each has them for the last time."""
    values, first, second = np.intersect1d(ours[::-1], theirs[::-1], return_indices=True)
    return values, len(ours) - 1 - first, len(theirs) - 1 - second
