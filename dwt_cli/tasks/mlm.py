"""Masked language modelling: which positions of a block are targets.

Legend: B blocks, L positions, N target rows (B * targets per block)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dwt_cli.base.randomness import generator
from dwt_cli.tasks.options import Task
from dwt_cli.tasks.task import Batch


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
