"""``batch(step)``: any part of any step's batch, for anyone, without having made the ones before.

Legend: B blocks, L positions, N target rows (B * targets per block).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwt_cli.config import Task
from dwt_cli.corpus.blocks import Blocks
from dwt_cli.randomness import generator, seed_for


@dataclass(frozen=True)
class Batch:
    """Masked blocks and what was masked.

    ids_BL: int64 token ids with the masking applied.
    rows_N: int64 places of the targets in the flattened (B * L) positions.
    labels_N: int64 ids that stood there.
    """

    ids_BL: Tensor
    rows_N: Tensor
    labels_N: Tensor

    def to(self, device: torch.device) -> "Batch":
        """On a device; a GPU copies pinned memory while it computes."""
        tensors = [self.ids_BL, self.rows_N, self.labels_N]
        if device.type == "cuda":
            tensors = [tensor.pin_memory() for tensor in tensors]
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


@dataclass(frozen=True)
class Masking:
    """BERT's masking (80% [MASK], 10% random, 10% kept) on a fixed number of positions a block.

    The number is fixed so that shapes are static and a step's target count is known beforehand.
    special_ids are never drawn, and masked only in a block that has too few ordinary tokens.
    """

    task: Task
    vocab_size: int
    mask_id: int
    special_ids: tuple[int, ...]

    def num_targets(self, block_length: int) -> int:
        """Targets per block: the ratio of the positions after [CLS], at least one."""
        return max(1, round(self.task.mask_ratio * (block_length - 1)))

    def batch(
        self, blocks_BL: NDArray[np.int64], seed: int, places: list[tuple[int, ...]]
    ) -> Batch:
        """Mask blocks (B, L), each with the random numbers of its own place under ``seed``."""
        num_blocks, length = blocks_BL.shape
        num_targets = self.num_targets(length)
        uniforms_BU = np.stack(
            [generator(seed, *place).random(length + 2 * num_targets) for place in places]
        )
        keys_BL, action_BT, draw_BT = np.split(uniforms_BU, [length, length + num_targets], axis=1)
        # specials come last, and serve only when a block has too few ordinary tokens
        keys_BL = keys_BL + np.isin(blocks_BL, self.special_ids)
        positions_BT = np.sort(np.argpartition(keys_BL, num_targets)[:, :num_targets])
        labels_BT = np.take_along_axis(blocks_BL, positions_BT, axis=1)

        ordinary = np.setdiff1d(np.arange(self.vocab_size), self.special_ids)
        drawn_BT = ordinary[(draw_BT * len(ordinary)).astype(np.int64)]
        keep, random = self.task.keep_ratio, self.task.random_ratio
        shown_BT = np.where(
            action_BT < keep, labels_BT, np.where(action_BT < keep + random, drawn_BT, self.mask_id)
        )
        masked_BL = blocks_BL.copy()
        np.put_along_axis(masked_BL, positions_BT, shown_BT, axis=1)
        rows_BT = positions_BT + np.arange(num_blocks)[:, None] * length
        return Batch(
            *map(torch.from_numpy, (masked_BL, rows_BT.reshape(-1), labels_BT.reshape(-1)))
        )


class TrainBatches:
    """The training batches of one purpose: order and masks follow from (seed, purpose).

    Each epoch is a permutation of all blocks. The samples of a step are numbered 0 ..
    batch_size - 1; a part (a rank's, a micro-batch's) is a range of them.
    """

    def __init__(
        self, blocks: Blocks, masking: Masking, batch_size: int, seed: int, purpose: str
    ) -> None:
        self.batch_size = batch_size
        self.num_targets = batch_size * masking.num_targets(blocks.block_length)
        self._blocks, self._masking = blocks, masking
        self._order_seed = seed_for(seed, purpose, "order")
        self._mask_seed = seed_for(seed, purpose, "masks")

    @property
    def steps_per_epoch(self) -> float:
        return len(self._blocks) / self.batch_size

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self._blocks.block_length

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> Batch:
        """Part ``part`` of ``num_parts`` equal, consecutive parts of step ``step``'s batch."""
        assert self.batch_size % num_parts == 0 and 0 <= part < num_parts
        size = self.batch_size // num_parts
        samples = range(part * size, (part + 1) * size)
        places = [divmod(step * self.batch_size + sample, len(self._blocks)) for sample in samples]
        numbers_B = np.array([self._order(epoch)[place] for epoch, place in places])
        return self._masking.batch(
            self._blocks[numbers_B], self._mask_seed, [(step, sample) for sample in samples]
        )

    @lru_cache(maxsize=2)  # noqa: B019 - a source lives as long as its process
    def _order(self, epoch: int) -> NDArray[np.int64]:
        return generator(self._order_seed, epoch).permutation(len(self._blocks))


class HeldoutBatches:
    """The held-out blocks under one fixed masking: the same for every run over a corpus."""

    def __init__(self, blocks: Blocks, masking: Masking, num_blocks: int, batch_size: int) -> None:
        count = min(num_blocks, len(blocks))
        seed = seed_for("heldout", "masks")
        self._batches = []
        for start in range(0, count, batch_size):
            numbers = np.arange(start, min(start + batch_size, count))
            self._batches.append(
                masking.batch(blocks[numbers], seed, [(int(number),) for number in numbers])
            )
        self.num_blocks = count
        self.num_targets = count * masking.num_targets(blocks.block_length)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def share(self, rank: int, num_ranks: int) -> Iterator[tuple[Batch, bool]]:
        """The batches of one rank, and whether they count.

        All ranks get equally many, so that they can be asked together: one that has run out sees
        the first batch again, which then does not count.
        """
        for start in range(0, len(self._batches), num_ranks):
            counts = start + rank < len(self._batches)
            yield self._batches[start + rank if counts else 0], counts
