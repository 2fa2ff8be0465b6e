import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dwt_cli.data import pack as packing
from dwt_cli.data.pack import Blocks, block_bytes, pack, write_blocks

CLS, SEP = 2, 3
FRAME = ([CLS], [SEP])


@pytest.mark.parametrize("length", [2, 5, 8, 100])
def test_packing_loses_nothing_but_the_unfilled_end(length: int) -> None:
    draw = random.Random(length)
    texts = [[draw.randrange(4, 99) for _ in range(draw.randrange(12))] for _ in range(60)]
    stream = [token for text in texts for token in [*text, SEP]]
    packed = list(pack(texts, length, *FRAME))
    assert all(len(block) == length and block[0] == CLS for block in packed)
    content = [token for block in packed for token in block[1:]]
    assert content == stream[: len(content)]
    assert 0 <= len(stream) - len(content) < length - 1


def test_blocks_may_begin_with_nothing_but_text() -> None:
    packed = pack([[5, 6, 7], [8], [9, 10]], 4, [], [SEP])
    assert list(packed) == [[5, 6, 7, SEP], [8, SEP, 9, 10]]


def test_blocks_come_before_the_text_ends() -> None:
    def endless() -> Iterator[list[int]]:
        while True:
            yield [5, 6, 7, 8]

    packed = pack(endless(), 6, *FRAME)
    assert [next(packed) for _ in range(2)] == [[CLS, 5, 6, 7, 8, SEP]] * 2


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, "uint16"), ((1 << 16) + 1, "uint32")])
def test_shards_read_back_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocab_size: int, dtype: str
) -> None:
    monkeypatch.setattr(packing, "BLOCKS_PER_SHARD", 4)
    ids = np.random.default_rng(0).integers(vocab_size, size=(11, 6))
    ids[3, 2] = vocab_size - 1
    assert write_blocks(ids.tolist(), tmp_path / "b", vocab_size, 99) == (11, False)
    shards = sorted((tmp_path / "b").iterdir())
    assert [np.load(shard).shape for shard in shards] == [(4, 6), (4, 6), (3, 6)]
    assert {np.load(shard).dtype for shard in shards} == {np.dtype(dtype)}
    read = Blocks(tmp_path / "b")
    assert (len(read), read.block_length) == (11, 6)
    numbers = np.array([10, 0, 3, 4, 7, 8, 3])
    assert read[numbers].dtype == np.int64
    np.testing.assert_array_equal(read[numbers], ids[numbers])


@pytest.mark.parametrize("vocab_size", [100, 100_000])
@pytest.mark.parametrize(
    ("max_blocks", "expected"), [(4, (4, True)), (5, (5, False)), (6, (5, False)), (0, (0, True))]
)
def test_what_is_too_much_is_left_out(
    tmp_path: Path, vocab_size: int, max_blocks: int, expected: tuple[int, bool]
) -> None:
    assert write_blocks([[1] * 6] * 5, tmp_path / "b", vocab_size, max_blocks) == expected
    files = list((tmp_path / "b").glob("*.npy"))
    assert sum(np.load(file).nbytes for file in files) == expected[0] * block_bytes(6, vocab_size)
