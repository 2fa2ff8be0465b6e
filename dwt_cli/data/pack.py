"""Token ids as packed blocks on disk: numbered shards, memory-mapped when read.

Legend: B blocks, L positions.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCKS_PER_SHARD = 1 << 16


def pack(
    documents: Iterable[list[list[int]]], block_length: int, before: list[int], after: list[int]
) -> Iterator[list[int]]:
    """Yield tokenised documents (paragraphs of ids) as blocks of ``block_length`` ids, no padding.

    before: what every block begins with. after: what every paragraph ends with. A block may hold
    the end of one document and the beginning of the next. What does not fill the last block is
    left out.
    """
    stream: list[int] = []
    content = block_length - len(before)
    for paragraphs in documents:
        for paragraph in paragraphs:
            stream += paragraph + after
        whole = len(stream) // content
        for start in range(0, whole * content, content):
            yield before + stream[start : start + content]
        del stream[: whole * content]


def block_bytes(block_length: int, vocab_size: int) -> int:
    """Return the bytes of one block on disk."""
    return block_length * _dtype(vocab_size).itemsize


def _dtype(vocab_size: int) -> "np.dtype[np.unsignedinteger]":
    return np.dtype("uint16" if vocab_size <= 1 << 16 else "uint32")


def write_blocks(
    blocks: Iterable[list[int]], folder: Path, block_length: int, vocab_size: int, max_bytes: float
) -> tuple[int, bool]:
    """Write shards ``00000.npy``, ... of at most `BLOCKS_PER_SHARD` blocks each.

    Returns the number of blocks and whether ``max_bytes`` cut the stream short.
    """
    folder.mkdir(parents=True)
    dtype = _dtype(vocab_size)
    max_blocks = int(max_bytes // block_bytes(block_length, vocab_size))
    num_blocks, waiting, cut = 0, [], False
    for block in blocks:
        if num_blocks == max_blocks:
            cut = True
            break
        waiting.append(block)
        num_blocks += 1
        if len(waiting) == BLOCKS_PER_SHARD:
            _write_shard(folder, num_blocks, waiting, dtype)
            waiting = []
    if waiting:
        _write_shard(folder, num_blocks, waiting, dtype)
    return num_blocks, cut


def _write_shard(
    folder: Path, num_blocks: int, blocks: list[list[int]], dtype: "np.dtype[np.unsignedinteger]"
) -> None:
    number = (num_blocks - 1) // BLOCKS_PER_SHARD
    np.save(folder / f"{number:05d}.npy", np.asarray(blocks, dtype=dtype))


class Blocks:
    """Packed blocks, read through the page cache: ``blocks[numbers_B]`` is (B, L) int64."""

    def __init__(self, folder: Path) -> None:
        self._shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def block_length(self) -> int:
        return int(self._shards[0].shape[1])

    def __getitem__(self, numbers_B: NDArray[np.int64]) -> NDArray[np.int64]:
        shards_B = np.searchsorted(self._starts, numbers_B, side="right") - 1
        return np.stack(
            [
                self._shards[shard][number - self._starts[shard]]
                for shard, number in zip(shards_B, numbers_B, strict=True)
            ]
        ).astype(np.int64)
