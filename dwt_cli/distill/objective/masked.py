"""The states that enter the head at the target rows: masked generation features.

Imports no torch at the top. Legend: B blocks, N target rows, S and T widths of student, teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.distill.objective.features import Block, FeatureObjective, projection_flops

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from dwt_cli.models.features import Features, FeatureSpec
    from dwt_cli.tasks.task import Batch


class Pool(Enum):
    """block: the mean of a block's rows is compared. row: each of them."""

    block = "block"
    row = "row"


@dataclass
class MaskedHidden(FeatureObjective):
    """Mean squared difference of the states that enter the head, over blocks (PMD, 2401.12997).

    They are computed anyway: the last layer stays on the target rows. The student's go through a
    learned projection where widths differ. normalise: to length 1, as the authors' code does after
    pooling; the loss is then (2 - 2 cos) / width. only_masked: leave out rows that show the right
    or a random token; a block without any other is at distance 0, as there.
    """

    of_texts: ClassVar[bool] = False  # nothing is masked in them

    pool: Pool = Pool.block
    normalise: bool = True
    only_masked: bool = False

    def requested(self) -> tuple[FeatureSpec, FeatureSpec]:
        from dwt_cli.models.features import ROWS

        return frozenset({ROWS}), frozenset({ROWS})

    def part(
        self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig
    ) -> nn.Module | None:
        from dwt_cli.distill.objective.projections import Projections

        widths = (student.hidden_size, teacher.hidden_size)
        return None if len({*widths}) == 1 else Projections(1, *widths)

    def flops(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, block: Block
    ) -> tuple[float, float]:
        if student.hidden_size == teacher.hidden_size:
            return 0.0, 0.0
        return projection_flops(block.num_targets, student, teacher), 0.0

    def compare(
        self, student: Features, teacher: Features, part: nn.Module | None, batch: Batch
    ) -> Tensor:
        from torch.nn import functional as F

        assert student.rows_ND is not None and teacher.rows_ND is not None, "they were requested"
        ours, theirs = student.rows_ND.float(), teacher.rows_ND.float()
        if part is not None:
            (ours,) = part([ours])
        if self.pool is Pool.block:
            ours, theirs = self._pooled(ours, batch), self._pooled(theirs, batch)
        if self.normalise:
            ours, theirs = F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1)
        distances = (ours - theirs).square().mean(-1, keepdim=True)
        if self.pool is Pool.row:
            distances = self._pooled(distances, batch)
        return distances.mean()

    def _pooled(self, values: Tensor, batch: Batch) -> Tensor:
        """Return the means (B, ...) over each block's rows that count, of values (N, ...)."""
        masked_N1 = None if batch.masked_N is None else batch.masked_N[:, None]
        counts_N1 = values.new_ones(len(values), 1)
        if self.only_masked and masked_N1 is not None:
            counts_N1 = masked_N1.to(values.dtype)
        num_blocks, length = batch.ids_BL.shape
        blocks_N = batch.rows_N // length
        sums, counts = (
            each.new_zeros(num_blocks, each.shape[1]).index_add(0, blocks_N, each)
            for each in (values * counts_N1, counts_N1)
        )
        return sums / counts.clamp(min=1)
