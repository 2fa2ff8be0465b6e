"""Hidden states of layers, each through a learned projection. Imports no torch at the top.

Legend: B blocks, L positions, A positions that are taught, T width of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.distill.objective.features import Block, LayerPairs, projection_flops

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

    from dwt_cli.models.features import Features
    from dwt_cli.tasks.task import Batch


class Distance(Enum):
    """cosine: one minus it. mse: mean squared difference."""

    cosine = "cosine"
    mse = "mse"


@dataclass
class Hidden(LayerPairs):
    """Hidden states at [student layer, teacher layer] pairs, each through a learned projection.

    The mean distance over the pairs. Cosine over one pair, an early layer of the student and the
    teacher's last, is LET; the squared difference is FitNets' hint (arXiv 1412.6550, eq. 3).
    A teacher with another tokenizer is compared where its tokens end with the student's; any other
    position counts as one without a distance.
    """

    across: ClassVar[bool] = True
    kind: ClassVar[str] = "hidden"

    pairs: list[list[int]] | None = field(default_factory=lambda: [[-1, -1]])
    distance: Distance = Distance.cosine

    def part(self, setting: str, student: PreTrainedConfig, teacher: PreTrainedConfig) -> nn.Module:
        from dwt_cli.distill.objective.projections import Projections

        return Projections(len(self.layers), student.hidden_size, teacher.hidden_size)

    def flops(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, block: Block
    ) -> tuple[float, float]:
        return projection_flops(len(self.layers) * block.length, student, teacher), 0.0

    def kept_bytes(
        self, student: PreTrainedConfig, teacher: PreTrainedConfig, num_blocks: int, length: int
    ) -> int:
        """Return the bytes of both sides' states in fp32, and of those in the teacher's width.

        These are of each pair, and of two more while they are compared; a cosine has two copies.
        """
        num_pairs, times = len(self.layers), 2 if self.distance is Distance.cosine else 1
        states = num_pairs * (student.hidden_size + teacher.hidden_size)
        mapped = times * (num_pairs + 2) * teacher.hidden_size
        return 4 * num_blocks * length * (states + mapped)

    def compare(
        self, student: Features, teacher: Features, part: nn.Module | None, batch: Batch
    ) -> Tensor:
        import torch
        from torch.nn import functional as F

        assert part is not None, "made for the two models"
        projected = part([student.hidden[ours].float() for ours, _ in self.layers])
        hidden = [teacher.hidden[theirs].float() for _, theirs in self.layers]
        if (taught_BL := teacher.taught_BL) is not None:
            return self._where(taught_BL, projected, hidden)
        distances = [
            1 - student.mean(F.cosine_similarity(ours_BLT, theirs_BLT, dim=-1))
            if self.distance is Distance.cosine
            else student.mean(F.mse_loss(ours_BLT, theirs_BLT, reduction="none"))
            for ours_BLT, theirs_BLT in zip(projected, hidden, strict=True)
        ]
        return torch.stack(distances).mean()

    def _where(self, taught_BL: Tensor, projected: list[Tensor], hidden: list[Tensor]) -> Tensor:
        """Return the mean over all positions, of which the others are zero."""
        import torch
        from torch.nn import functional as F

        distances = []
        for ours_BLT, theirs_BLT in zip(projected, hidden, strict=True):
            ours_AT, theirs_AT = ours_BLT[taught_BL], theirs_BLT[taught_BL]
            if self.distance is Distance.cosine:
                distances.append((1 - F.cosine_similarity(ours_AT, theirs_AT, dim=-1)).sum())
            else:
                distances.append((ours_AT - theirs_AT).square().mean(-1).sum())
        return torch.stack(distances).mean() / taught_BL.numel()
