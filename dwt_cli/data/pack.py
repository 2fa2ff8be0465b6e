"""Token ids as packed blocks on disk: numbered shards, memory-mapped when read.

Legend: B blocks, L positions.
"""

import copy
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwt_cli.base.atomic import read_json
from dwt_cli.base.errors import UserError

BLOCKS_PER_SHARD = 1 << 16
BYTES = "bytes.json"
"""Beside the shards of a causal model's held-out text: the bytes of text in each block, and a list
of the shorter one at their end, if there is, whose bytes come last."""


def pack(
    texts: Iterable[list[int]],
    block_length: int,
    before: list[int],
    after: list[int],
    with_rest: bool = False,
) -> Iterator[list[int]]:
    """Yield the ids of texts as blocks of ``block_length`` ids, without padding.

    before: what every block begins with. after: what every text ends with. A block may hold the
    end of one document and the beginning of the next. What does not fill the last block is left
    out, or a shorter one with_rest.
    """
    stream: list[int] = []
    content = block_length - len(before)
    for ids in texts:
        stream += ids + after
        whole = len(stream) // content
        for start in range(0, whole * content, content):
            yield before + stream[start : start + content]
        del stream[: whole * content]
    if with_rest and stream:
        yield before + stream


def block_bytes(block_length: int, vocab_size: int) -> int:
    """Return the bytes of one block on disk."""
    return block_length * _dtype(vocab_size).itemsize


def _dtype(vocab_size: int) -> "np.dtype[np.unsignedinteger]":
    return np.dtype("uint16" if vocab_size <= 1 << 16 else "uint32")


def write_blocks(
    blocks: Iterable[list[int]], folder: Path, vocab_size: int, most: int
) -> tuple[int, bool]:
    """Write shards ``00000.npy``, ... of at most `BLOCKS_PER_SHARD` blocks each.

    Returns the number of blocks and whether there are more than ``most``, which are left out.
    """
    folder.mkdir(parents=True)
    dtype, stream, num_blocks = _dtype(vocab_size), iter(blocks), 0
    while shard := list(itertools.islice(stream, min(BLOCKS_PER_SHARD, most - num_blocks))):
        number = num_blocks // BLOCKS_PER_SHARD
        np.save(folder / f"{number:05d}.npy", np.asarray(shard, dtype=dtype))
        num_blocks += len(shard)
    return num_blocks, next(stream, None) is not None


class Blocks:
    """Packed blocks, read through the page cache: ``blocks[numbers_B]`` is (B, L) int64.

    num_tokens: ids are below it, which is looked at when they are read; None: whatever they are.
    """

    def __init__(self, folder: Path, num_tokens: int | None = None) -> None:
        self.folder, self._num_tokens = folder, num_tokens
        self._shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        beside = read_json(folder / BYTES) or {}
        self._bytes: list[int] | None = beside.get("of_blocks")
        self.rest: list[list[int]] = beside.get("rest", [])
        self._numbers: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._numbers is None else len(self._numbers)

    def part(self, numbers_B: NDArray[np.int64]) -> "Blocks":
        """Return some of them as if there were no others, numbered anew in this order."""
        found = copy.copy(self)
        found._numbers = numbers_B if self._numbers is None else self._numbers[numbers_B]
        found._bytes, found.rest = None, []
        return found

    def number_of(self, block: int) -> int:
        """Return a block's number in the whole text, where it is the same for every part."""
        return block if self._numbers is None else int(self._numbers[block])

    @property
    def block_length(self) -> int:
        return int(self._shards[0].shape[1])

    def num_bytes(self, num_blocks: int) -> int | None:
        """Return the bytes of text in the first blocks; None where they are not counted."""
        return None if self._bytes is None else sum(self._bytes[:num_blocks])

    def __getitem__(self, numbers_B: NDArray[np.int64]) -> NDArray[np.int64]:
        numbers_B = numbers_B if self._numbers is None else self._numbers[numbers_B]
        shards_B = np.searchsorted(self._starts, numbers_B, side="right") - 1
        places = zip(shards_B, numbers_B - self._starts[shards_B], strict=True)
        found = np.stack([self._shards[shard][place] for shard, place in places]).astype(np.int64)
        if self._num_tokens is not None and (largest := found.max()) >= self._num_tokens:
            raise UserError(
                f"{self.folder}: the text has a token {largest}, and its tokenizer only those "
                f"below {self._num_tokens}: remove {self.folder.parent}, and it is made again"
            )
        return found
