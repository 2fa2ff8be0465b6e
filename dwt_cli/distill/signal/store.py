"""A store of a teacher's rows, found by what the teacher was shown.

A block's key is a hash of its ids, its targets and the way in which the teacher computes, whatever
step, epoch, seed or rank asks: rows of another text, or of other masks, are not found. Shards are
numbered and only added to; the folder's manifest names a shard as soon as it is whole.
Legend: B blocks, L positions, N target rows of a batch.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dwt_cli.distill.objective.base import EntryRows
from dwt_cli.distill.signal.coding import MOST_SHARES, CachedRows, Layout
from dwt_cli.tasks.task import Batch

VERSION = 2
"""The version of bytes and keys; raise it when the same would mean other rows."""

_INDEX = np.dtype([("key", "<u8"), ("size", "<u4"), ("num_rows", "<u4")])


class CachedBlock(NamedTuple):
    """A block's key, and its rows as bytes."""

    key: int
    num_rows: int
    content: bytes


def keys_of(batch: Batch, way: str) -> list[int]:
    """Return the keys of a batch's blocks, 64 bits each. way: in which the teacher computes."""
    length = batch.ids_BL.shape[1]
    blocks_N, inside_N = (batch.rows_N // length).numpy(), (batch.rows_N % length).numpy()
    ends_B = np.cumsum(np.bincount(blocks_N, minlength=len(batch.ids_BL)))[:-1]
    parts: list[Any] = [batch.ids_BL.numpy()]
    parts += [np.split(each_N, ends_B) for each_N in (inside_N, batch.labels_N.numpy())]
    if batch.documents_BL is not None:
        parts.append(batch.documents_BL.numpy())
    keys = []
    for block in zip(*parts, strict=True):
        sums = hashlib.blake2b(way.encode(), digest_size=8)
        for part in block:
            sums.update(len(part).to_bytes(4, "little") + part.tobytes())
        keys.append(int.from_bytes(sums.digest(), "little"))
    return keys


def write_shard(folder: Path, number: int, blocks: Sequence[CachedBlock]) -> None:
    """Write a shard's two files: the rows, and their index."""
    lines = [(block.key, len(block.content), block.num_rows) for block in blocks]
    index = np.array(lines, _INDEX)
    (folder / f"{number:06d}.rows").write_bytes(b"".join(block.content for block in blocks))
    np.save(folder / f"{number:06d}.npy", index)


class Store:
    """The rows of the shards that a folder has. It does not see those that are added."""

    def __init__(self, folder: Path, layout: Layout, numbers: Sequence[int]) -> None:
        self._layout = layout
        indices = [np.load(folder / f"{number:06d}.npy") for number in numbers]
        names = [folder / f"{number:06d}.rows" for number in numbers]
        self._shards = [np.memmap(name, np.uint8, "r") for name in names]
        whole = np.concatenate([np.zeros(0, _INDEX), *indices])
        ends = [index["size"].astype(np.int64).cumsum() for index in indices]
        order = whole["key"].argsort(kind="stable")
        self._ends = np.concatenate([np.zeros(0, np.int64), *ends])[order]
        self._index, self._keys = whole[order], whole["key"][order]
        self._shard_of = np.repeat(np.arange(len(indices)), list(map(len, indices)))[order]
        self.num_rows = int(whole["num_rows"].sum())

    def __contains__(self, key: int) -> bool:
        return self._place(key) is not None

    def _place(self, key: int) -> int | None:
        place = int(self._keys.searchsorted(np.uint64(key)))
        return place if place < len(self._keys) and self._keys[place] == key else None

    def entries(self, batch: Batch, way: str) -> tuple[Tensor, ...]:
        """Return the fields of the `EntryRows` of a batch; none if a block of it is not here."""
        found = [self._place(key) for key in keys_of(batch, way)]
        places = [place for place in found if place is not None]
        if len(places) < len(found):
            return ()
        ends, sizes = self._ends[places], self._index["size"][places].astype(np.int64)
        shards = [self._shards[number] for number in self._shard_of[places]]
        blocks = [
            shard[end - size : end].tobytes()
            for shard, end, size in zip(shards, ends, sizes, strict=True)
        ]
        rows = self._layout.decode(blocks, self._index["num_rows"][places].tolist())
        return tuple(part for part in entry_rows(rows, self._layout) if part is not None)


def entry_rows(rows: CachedRows, layout: Layout) -> EntryRows:
    """Return rows as the student is compared with them."""
    numbers = (rows.entropies_T, rows.labels_T, rows.tops_T)
    parts = [rows.ids_TK, layout.weights(rows)]
    parts += [each[:, None].astype(np.float32) for each in numbers]
    parts.append(rows.are_likeliest_T[:, None])
    if layout.num_centroids:
        shares_T1 = rows.shares_T[:, None].astype(np.float32) / np.float32(MOST_SHARES)
        parts += [rows.centroids_T[:, None], shares_T1]
    return EntryRows(*map(torch.from_numpy, parts))
