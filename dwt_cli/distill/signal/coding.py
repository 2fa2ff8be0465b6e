"""Rows of entries as bytes: each column of a block with as many bits as its values need.

Ids take the vocabulary's bits, the head's weights those of its levels; what follows the head has
weights of one size, which follows from the sum of all. Entropy and the likeliest token's
log-probability are rounded to a share of ln V, the label's to a share of `_LEAST`.
Legend: T rows of a block, K entries, M values of a column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]
Numbers = NDArray[np.int64]

_LEAST = 32.0  # nats: a label's log-probability is at least minus that
_ENTROPY_BITS, _LABEL_BITS, _TOP_BITS, _SHARE_BITS = 11, 11, 10, 4
MOST_SHARES = 2**_SHARE_BITS - 1
"""Parts of a centroid of which a row has a whole number."""


class CachedRows(NamedTuple):
    """Rows as they are cached; see `Entries` and `EntryRows`.

    int64 all but entropies, labels and tops: fp64, and whether that is the label: bool. levels_TK:
    weights of the head, signed. num_plus_T: of those after it that are above zero, which come
    first. totals_T: the sum of all sizes, in levels. shares_T: of `MOST_SHARES`.
    """

    ids_TK: Column
    levels_TK: Column
    num_head_T: Column
    num_T: Column
    entropies_T: Column
    labels_T: Column
    tops_T: Column
    are_likeliest_T: Column
    num_plus_T: Column
    totals_T: Column
    centroids_T: Column
    shares_T: Column


@dataclass(frozen=True)
class Layout:
    """The meaning of the bytes of rows; the same for all of a store. See `Cached`."""

    vocab_size: int
    num_entries: int
    num_levels: int
    is_full: bool
    num_centroids: int = 0

    def encode(self, rows: CachedRows) -> bytes:
        """Return the bytes of a block's rows."""
        places_K = np.arange(self.num_entries)
        is_there_TK = places_K < rows.num_T[:, None]
        is_head_TK = places_K < rows.num_head_T[:, None]
        columns: list[tuple[Any, int]] = [
            ([] if self.is_full else rows.num_T, self._count_bits),
            (rows.num_head_T, self._count_bits),
            (_share(rows.entropies_T, self._most, _ENTROPY_BITS), _ENTROPY_BITS),
            (_share(-rows.labels_T, _LEAST, _LABEL_BITS), _LABEL_BITS),
            (_share(-rows.tops_T, self._most, _TOP_BITS), _TOP_BITS),
            (rows.are_likeliest_T, 1),
            (rows.ids_TK[is_there_TK], self._id_bits),
            (np.abs(rows.levels_TK[is_head_TK]), self._level_bits),
        ]
        if self.num_centroids:
            columns += [
                (rows.levels_TK[is_head_TK] < 0, 1),
                (rows.num_plus_T, self._count_bits),
                (rows.totals_T, self._level_bits + 1),
                (rows.centroids_T, self._centroid_bits),
                (rows.shares_T, _SHARE_BITS),
            ]
        return b"".join(_packed(np.asarray(values, np.int64), bits) for values, bits in columns)

    def decode(self, blocks: Sequence[bytes], num_rows: Sequence[int]) -> CachedRows:
        """Return the rows of blocks, one block after another, of their bytes.

        num_rows: of each. All are read together, column by column, which costs least.
        """
        stream, num_rows_B = _Streams(blocks), np.array(num_rows, np.int64)
        block_T = np.repeat(np.arange(len(blocks)), num_rows_B)

        def in_blocks(num_T: Numbers) -> Numbers:
            return np.bincount(block_T, num_T, len(blocks)).astype(np.int64)

        full_T = np.full(len(block_T), self.num_entries)
        num_T = full_T if self.is_full else stream.take(num_rows_B, self._count_bits)
        num_head_T = stream.take(num_rows_B, self._count_bits)
        entropies_T = stream.take(num_rows_B, _ENTROPY_BITS) * (self._most / (2**_ENTROPY_BITS - 1))
        labels_T = stream.take(num_rows_B, _LABEL_BITS) * (-_LEAST / (2**_LABEL_BITS - 1))
        tops_T = stream.take(num_rows_B, _TOP_BITS) * (-self._most / (2**_TOP_BITS - 1))
        are_likeliest_T = stream.take(num_rows_B, 1) == 1
        places_K = np.arange(self.num_entries)
        ids_TK = np.zeros((len(block_T), self.num_entries), np.int64)
        levels_TK = np.zeros_like(ids_TK)
        ids_TK[places_K < num_T[:, None]] = stream.take(in_blocks(num_T), self._id_bits)
        num_levels_B = in_blocks(num_head_T)
        levels = stream.take(num_levels_B, self._level_bits)
        shares: tuple[Numbers, ...] = (
            num_T - num_head_T,
            np.full_like(num_T, self.num_levels),
            0 * num_T,
            0 * num_T,
        )
        if self.num_centroids:
            levels = np.where(stream.take(num_levels_B, 1) == 1, -levels, levels)
            widths = (self._count_bits, self._level_bits + 1, self._centroid_bits, _SHARE_BITS)
            shares = tuple(stream.take(num_rows_B, bits) for bits in widths)
        levels_TK[places_K < num_head_T[:, None]] = levels
        known = (entropies_T, labels_T, tops_T, are_likeliest_T)
        return CachedRows(ids_TK, levels_TK, num_head_T, num_T, *known, *shares)

    def weights(self, rows: CachedRows) -> NDArray[np.float32]:
        """Return the weights of all entries (T, K): what the head leaves of the sum, evenly."""
        places_K, heads_T1 = np.arange(self.num_entries), rows.num_head_T[:, None]
        is_tail_TK = (places_K >= heads_T1) & (places_K < rows.num_T[:, None])
        left_T1 = (rows.totals_T - np.abs(rows.levels_TK).sum(-1))[:, None]
        kappas_T1 = left_T1 / np.maximum(rows.num_T[:, None] - heads_T1, 1)
        signs_TK = np.where(places_K < heads_T1 + rows.num_plus_T[:, None], 1, -1)
        levels_TK = np.where(is_tail_TK, kappas_T1 * signs_TK, rows.levels_TK)
        return (levels_TK / self.num_levels).astype(np.float32)

    @property
    def most_bits(self) -> int:
        """The bits of a row whose entries are all of the head."""
        known = 2 * self._count_bits + _ENTROPY_BITS + _LABEL_BITS + _TOP_BITS + 1
        each = self._id_bits + self._level_bits
        if self.num_centroids:
            each += 1
            known += self._count_bits + self._level_bits + 1 + self._centroid_bits + _SHARE_BITS
        return known + self.num_entries * each

    @property
    def _most(self) -> float:
        """The entropy of an even row, and minus the log-probability of its tokens, in nats."""
        return math.log(self.vocab_size)

    @property
    def _id_bits(self) -> int:
        return (self.vocab_size - 1).bit_length()

    @property
    def _count_bits(self) -> int:
        return self.num_entries.bit_length()

    @property
    def _centroid_bits(self) -> int:
        return (self.num_centroids - 1).bit_length()

    @property
    def _level_bits(self) -> int:
        return self.num_levels.bit_length()


def _share(values_T: Column, most: float, bits: int) -> Numbers:
    """Return values in [0, most] as whole numbers of so many bits."""
    return np.rint(values_T.clip(0, most) / most * (2**bits - 1)).astype(np.int64)


def _packed(values_M: Numbers, bits: int) -> bytes:
    assert not len(values_M) or 0 <= values_M.min() <= values_M.max() < 1 << bits
    bits_Mb = (values_M[:, None] >> np.arange(bits)) & 1
    return np.packbits(bits_Mb.astype(np.uint8), bitorder="little").tobytes()


class _Streams:
    """Columns of blocks; in a block they follow one another, each from a new byte on."""

    def __init__(self, blocks: Sequence[bytes]) -> None:
        content = b"".join(blocks)
        # a 32-bit word from each byte on
        self._words = np.ndarray(len(content), "<u4", content + b"\0" * 4, 0, (1,))
        self._starts_B = np.cumsum([0, *map(len, blocks)])[:-1]

    def take(self, num_B: Numbers, bits: int) -> Numbers:
        """Return so many values of each block, of so many bits, at most 25."""
        if not bits:
            return np.zeros(int(num_B.sum()), np.int64)
        firsts_B = 8 * self._starts_B - bits * (num_B.cumsum() - num_B)
        starts_M = np.repeat(firsts_B, num_B) + bits * np.arange(int(num_B.sum()))
        self._starts_B = self._starts_B + (num_B * bits + 7) // 8
        words_M = self._words[starts_M >> 3].astype(np.int64)
        return (words_M >> (starts_M & 7)) & ((1 << bits) - 1)
